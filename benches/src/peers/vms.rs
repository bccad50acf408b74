//! Virtual machines to be looked at: tiny QEMUs, or domains of libvirt's test driver behind the same daemon.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use vmkpi_tests::lab::hypervisor::Hypervisor;

/// How many QEMUs this machine takes.
pub const QEMUS: usize = 10;

/// Two processors, a disk, an interface where the machine has taps, a balloon; no system.
const QEMU: &str = r"<domain type='qemu'>
  <name>@NAME@</name>
  <memory unit='MiB'>16</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='@DISK@'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    @INTERFACE@
    <memballoon model='virtio'/>
  </devices>
</domain>
";

const INTERFACE: &str = "<interface type='ethernet'><model type='virtio'/></interface>";

/// Of the test driver: no device, as its bulk statistics have none; so everybody has the same to show.
const SIMULATED: &str = "<domain type='test'><name>@NAME@</name>\
    <uuid>6695eb01-f6a4-8304-79aa-@NUMBER@</uuid><memory unit='MiB'>64</memory>\
    <vcpu>2</vcpu><os><type>hvm</type></os></domain>\n";

/// Virtual machines of one libvirtd.
pub struct Vms {
    /// How many there are.
    pub count: usize,
    /// By which URI they are reached.
    pub uri: String,
}

/// The name of the nth.
pub fn name(n: usize) -> String {
    format!("vm{n}")
}

impl Vms {
    /// Starts QEMUs.
    pub fn qemus(folder: &Path, hypervisor: &Hypervisor, count: usize) -> Result<Self> {
        // Where a process may make taps.
        let taps = Path::new("/dev/net/tun").exists();
        for n in 0..count {
            let disk = folder.join(format!("{}.disk", name(n)));
            std::fs::write(&disk, vec![0; 1 << 20])?;
            let xml = QEMU
                .replace("@NAME@", &name(n))
                .replace("@DISK@", &disk.display().to_string())
                .replace("@INTERFACE@", if taps { INTERFACE } else { "" });
            let file = folder.join(format!("{}.xml", name(n)));
            std::fs::write(&file, xml)?;
            hypervisor.virsh(&["create", &file.display().to_string()])?;
        }
        let uri = hypervisor.uri();
        Ok(Self { count, uri })
    }

    /// Makes domains that only libvirtd knows. It reads them anew for every connection.
    pub fn simulated(folder: &Path, hypervisor: &Hypervisor, count: usize) -> Result<Self> {
        let mut node = String::from("<node>\n");
        for n in 0..count {
            // Every connection has domains of its own; they are the same by their UUIDs.
            let domain = SIMULATED.replace("@NAME@", &name(n));
            node.push_str(&domain.replace("@NUMBER@", &format!("{n:012}")));
        }
        node.push_str("</node>\n");
        let file = folder.join("node.xml");
        std::fs::write(&file, node)?;
        let socket = hypervisor.uri();
        let socket = socket.split_once('?').map_or("", |(_, rest)| rest);
        let mut uri = String::from("test+unix://");
        write!(uri, "{}?{socket}", file.display())?;
        Ok(Self { count, uri })
    }
}
