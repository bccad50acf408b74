//! See [`vmkpi_fuzz::host_line`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::host_line(data));
