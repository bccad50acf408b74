//! See [`vmkpi_fuzz::descriptor`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::descriptor(data));
