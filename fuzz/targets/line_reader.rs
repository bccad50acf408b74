//! See [`vmkpi_fuzz::line_reader`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::line_reader(data));
