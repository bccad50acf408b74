//! See [`vmkpi_fuzz::domain_xml`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkpi_fuzz::domain_xml(data));
