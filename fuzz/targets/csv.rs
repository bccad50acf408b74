//! See [`vmkpi_fuzz::csv`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::csv(data));
