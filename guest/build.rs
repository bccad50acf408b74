//! Lets the guest program need no other shared library than libc: a VM's image should not have to bring
//! libgcc_s for the unwinding of panics.

use std::path::Path;

/// What the linker reads in place of `libgcc_s.so`: the same functions from GCC's static archives, which
/// come with every GCC. `-static-libgcc` does not do it, because rustc names libgcc_s itself.
const INSTEAD_OF_LIBGCC_S: &str = "INPUT ( -lgcc_eh -lgcc )\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name| std::env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_OS") != "linux" || var("CARGO_CFG_TARGET_ENV") != "gnu" {
        return;
    }
    let out = var("OUT_DIR");
    let script = Path::new(&out).join("libgcc_s.so");
    std::fs::write(script, INSTEAD_OF_LIBGCC_S).expect("OUT_DIR can be written");
    println!("cargo::rustc-link-search=native={out}");
}
