//! System use fields: the System Use Sharing Protocol (SUSP 1.12) and Rock Ridge (RRIP 1.12) in them.

use super::error::{Fault, Refusal};
use super::record::{both_32, byte, to_both_32};
use super::{ReadAt, SECTOR};
use crate::context::MAX_NAME_BYTES;

/// The mode of a directory: everybody may read.
pub const DIRECTORY_MODE: u32 = 0o040_555;

/// The mode of a file.
pub const FILE_MODE: u32 = 0o100_444;

/// The bits of a mode that say what it is (`S_IFMT`).
const TYPE: u32 = 0o170_000;

/// Bytes of `CE`.
pub const CONTINUATION_BYTES: usize = 28;

/// The most bytes of a name in one field.
const NAME_PART: usize = 250;

/// The most continuations of one record, as in Linux.
const MAX_CONTINUATIONS: usize = 32;

/// Flags of `NM`: the name goes on in the next one.
const NAME_CONTINUES: u8 = 1;

/// What the root's own record begins with: the protocol is in use, and by whom. Rock Ridge's own wording.
pub fn announcement() -> Vec<u8> {
    let (id, text) = (b"RRIP_1991A", b"ROCK RIDGE INTERCHANGE PROTOCOL");
    let mut bytes = b"SP\x07\x01\xbe\xef\x00".to_vec();
    bytes.extend(b"ER");
    bytes.extend([byte(8 + id.len() + text.len()), 1]);
    bytes.extend([byte(id.len()), byte(text.len()), 0, 1]);
    bytes.extend(id);
    bytes.extend(text);
    bytes
}

/// `PX`: the mode and the number of links. Owner and group are root.
pub fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut bytes = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        bytes.extend(to_both_32(number));
    }
    bytes
}

/// `NM`, in as many fields as it takes.
pub fn name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = name.as_bytes().chunks(NAME_PART).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() {
            NAME_CONTINUES
        } else {
            0
        };
        bytes.extend(b"NM");
        bytes.extend([byte(5 + part.len()), 1, flags]);
        bytes.extend(part);
    }
    bytes
}

/// `CE`: where the fields go on.
pub fn continuation(sector: u32, offset: u32, length: u32) -> Vec<u8> {
    let mut bytes = b"CE\x1c\x01".to_vec();
    for number in [sector, offset, length] {
        bytes.extend(to_both_32(number));
    }
    bytes
}

/// How many bytes of each system use field are another's, if the root's own record says that the protocol is in use.
pub fn announced(system_use: &[u8]) -> Option<usize> {
    match system_use {
        [b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..] => Some(usize::from(*skip)),
        _ => None,
    }
}

/// What the fields of one record say.
#[derive(Debug, Default)]
pub struct Fields {
    /// Its name, as bytes.
    pub name: Option<Vec<u8>>,
    /// Whether it is a directory; `None`: they do not say.
    pub directory: Option<bool>,
    /// Why it may not be in a context.
    pub refusal: Option<Refusal>,
    name_goes_on: bool,
}

/// Where fields go on.
struct Continuation {
    offset: u64,
    length: usize,
}

impl Fields {
    /// Reads them, those in continuations included.
    pub fn read<R: ReadAt + ?Sized>(
        image: &R,
        volume: u64,
        system_use: &[u8],
    ) -> Result<Self, Fault> {
        let mut fields = Self::default();
        let mut next = fields.take(system_use)?;
        let mut area = [0; SECTOR];
        for _ in 0..MAX_CONTINUATIONS {
            let Some(place) = next else {
                return Ok(fields);
            };
            let area = &mut area[..place.length];
            if place.offset + area.len() as u64 > volume {
                return Err(Refusal::Fields("continue past the end of the volume").into());
            }
            image.read_exact_at(area, place.offset)?;
            next = fields.take(area)?;
        }
        match next {
            None => Ok(fields),
            Some(_) => Err(Refusal::Fields("go on without end").into()),
        }
    }

    /// Takes the fields of one area.
    fn take(&mut self, mut area: &[u8]) -> Result<Option<Continuation>, Refusal> {
        let mut next = None;
        // Fewer than four bytes are padding.
        while let [a, b, length, _, ..] = *area {
            if [a, b] == [0, 0] {
                break;
            }
            let length = usize::from(length);
            let field = area.get(4..length);
            let field = field.ok_or(Refusal::Fields("are damaged"))?;
            match &[a, b] {
                b"ST" => break,
                b"CE" => next = Some(Continuation::parse(field)?),
                signature => self.field(*signature, field)?,
            }
            area = &area[length..];
        }
        Ok(next)
    }

    fn field(&mut self, signature: [u8; 2], field: &[u8]) -> Result<(), Refusal> {
        let refusal = match &signature {
            b"NM" => return self.name_part(field),
            b"PX" => return self.mode(field),
            b"SL" => Refusal::SymbolicLink,
            b"PN" => Refusal::Special,
            b"CL" | b"PL" | b"RE" => Refusal::Relocated,
            b"SF" | b"ZF" => Refusal::Compressed,
            // Times, attributes, padding, and what nobody knows.
            _ => return Ok(()),
        };
        self.refusal.get_or_insert(refusal);
        Ok(())
    }

    fn name_part(&mut self, field: &[u8]) -> Result<(), Refusal> {
        let (flags, part) = field.split_first().ok_or(Refusal::Fields("are damaged"))?;
        let begun = self.name.is_some();
        if begun != self.name_goes_on || flags & !NAME_CONTINUES != 0 {
            return Err(Refusal::Fields("give it several names, or none"));
        }
        let name = self.name.get_or_insert_default();
        if name.len() + part.len() > MAX_NAME_BYTES {
            return Err(Refusal::Name);
        }
        name.extend(part);
        self.name_goes_on = flags & NAME_CONTINUES != 0;
        Ok(())
    }

    fn mode(&mut self, field: &[u8]) -> Result<(), Refusal> {
        let mode = both_32(field).ok_or(Refusal::Fields("are damaged"))?;
        match mode & TYPE {
            0o040_000 => self.directory = Some(true),
            0o100_000 => self.directory = Some(false),
            0o120_000 => _ = self.refusal.get_or_insert(Refusal::SymbolicLink),
            _ => _ = self.refusal.get_or_insert(Refusal::Special),
        }
        Ok(())
    }
}

impl Continuation {
    fn parse(field: &[u8]) -> Result<Self, Refusal> {
        let number = |place: usize| {
            let bytes = field.get(8 * place..).unwrap_or_default();
            both_32(bytes).ok_or(Refusal::Fields("are damaged"))
        };
        let (sector, offset, length) = (number(0)?, number(1)? as usize, number(2)? as usize);
        // It is within one sector, so that one buffer is enough (as in Linux).
        if offset > SECTOR || length > SECTOR - offset {
            return Err(Refusal::Fields("continue over the end of a sector"));
        }
        Ok(Self {
            offset: u64::from(sector) * SECTOR as u64 + offset as u64,
            length,
        })
    }
}
