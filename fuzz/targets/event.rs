//! See [`vmkpi_fuzz::event`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::event(data));
