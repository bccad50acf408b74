//! A live migration that takes a while: from a second libvirtd of the test's own, over a Unix socket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::PATIENCE;
use super::hypervisor::Hypervisor;
use crate::process::Process;
use crate::wait_for;

/// The domain that migrates.
pub const MIGRANT: &str = "migrant";

/// How much of its memory is not zero, in MiB. Over a link of one MiB/s, it takes as many seconds.
pub const SECONDS: u64 = 14;

const XML: &str = r"<domain type='qemu'>
  <name>migrant</name>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='@DISK@'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <memballoon model='none'/>
  </devices>
</domain>
";

/// A boot sector that fills memory from 1 to 15 MiB and halts, as zero pages migrate in no time:
///
/// ```text
/// 7c00  cli; xor ax,ax; mov ds,ax; lgdt [gdtr]
/// 7c0a  mov eax,cr0; or al,1; mov cr0,eax; jmp 8:7c17
/// 7c17  mov ax,16; mov es,ax; mov edi,0x100000; mov ecx,0x380000; mov eax,0x2a2a2a2a; rep stosd
/// 7c2e  hlt; jmp 7c2e
/// 7c34  gdt: none, code, data (flat); 7c4c gdtr: 23, gdt
/// ```
const BOOT: [u8; 82] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x0f, 0x01, 0x16, 0x4c, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f,
    0x22, 0xc0, 0xea, 0x17, 0x7c, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xc0, 0xbf, 0x00, 0x00,
    0x10, 0x00, 0xb9, 0x00, 0x00, 0x38, 0x00, 0xb8, 0x2a, 0x2a, 0x2a, 0x2a, 0xf3, 0xab, 0xf4, 0xeb,
    0xfd, 0x8d, 0x76, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00, 0x17, 0x00, 0x34, 0x7c, 0x00, 0x00,
];

/// The place a VM migrates from.
pub struct Source {
    folder: PathBuf,
    hypervisor: Hypervisor,
}

impl Source {
    /// Starts another libvirtd with a VM that has written to its memory.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(folder: &Path) -> Result<Self> {
        let folder = folder.join("source");
        std::fs::create_dir_all(&folder)?;
        let hypervisor = Hypervisor::start(&folder)?;
        let (disk, xml) = (folder.join("disk"), folder.join("domain.xml"));
        let mut sectors = vec![0; 1 << 20];
        sectors[..BOOT.len()].copy_from_slice(&BOOT);
        sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&disk, sectors)?;
        std::fs::write(&xml, XML.replace("@DISK@", &disk.display().to_string()))?;
        hypervisor.virsh(&["create", &xml.display().to_string()])?;
        let source = Self { folder, hypervisor };
        wait_for(PATIENCE, "the memory to be written", || {
            let show = ["qemu-monitor-command", MIGRANT, "--hmp", "xp /1xw 0xefff00"];
            let said = source.hypervisor.virsh(&show).ok()?;
            said.contains("0x2a2a2a2a").then_some(())
        })
        .with_context(|| source.hypervisor.words())?;
        Ok(source)
    }

    /// Begins to migrate the VM to another libvirtd, slowly; the process is virsh, which ends with it.
    ///
    /// # Errors
    /// virsh cannot be started.
    pub fn migrate_to(&self, uri: &str) -> Result<Process> {
        let by = format!("unix://{}", self.folder.join("migrate").display());
        let from = self.hypervisor.uri();
        let words = "migrate --live --unsafe --bandwidth 1";
        let arguments = ["--connect", &from].into_iter().chain(words.split(' '));
        let arguments = arguments.chain([MIGRANT, uri, "--migrateuri", &by]);
        Process::start(
            &self.folder,
            "migrate",
            Path::new("/usr/bin/virsh"),
            arguments,
        )
    }
}
