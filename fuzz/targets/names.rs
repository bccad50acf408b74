//! See [`vmkpi_fuzz::names`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::names(data));
