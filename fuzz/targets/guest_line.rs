//! See [`vmkpi_fuzz::guest_line`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::guest_line(data));
