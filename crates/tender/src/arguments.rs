//! The command line.

use crate::image::Target;
use crate::{Error, COMMAND_LINE_SIZE};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

pub const USAGE: &str = "usage: skerry-tender [OPTIONS] [--] IMAGE [ARG...] | --probe spt|hvt | --version\n\
Runs a unikernel (Solo5) behind a filter of at most nine system calls: one for spt as a process, one for hvt by KVM.\n\
\n\
\x20 --memory BYTES                    its memory (default: 512 MiB)\n\
\x20 --block NAME=FILE                 a file of the host as the block device NAME\n\
\x20 --read-only NAME                  that device cannot be written to\n\
\x20 --block-size NAME=BYTES           the size of its blocks (default: 512)\n\
\x20 --net NAME=tap:INTERFACE|fd:N     a tap device, or an open socket of frames, as the net device NAME\n\
\x20 --mac NAME=MAC                    its address (default: a random one)\n\
\x20 --probe spt|hvt                   does this host run such unikernels? (status 0: it does)";

const DEFAULT_MEMORY: u64 = 512 << 20;

pub enum Wanted {
    Run(Arguments),
    Probe(Target),
    Version,
    Help,
}

/// What is behind a net device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    Tap(String),
    Descriptor(i32),
}

#[derive(Debug, Default)]
pub struct Arguments {
    pub memory: u64,
    pub block: BTreeMap<String, OsString>,
    pub read_only: Vec<String>,
    pub block_size: BTreeMap<String, u16>,
    pub net: BTreeMap<String, Net>,
    pub mac: BTreeMap<String, [u8; 6]>,
    pub image: OsString,
    pub words: Vec<OsString>,
}

impl Arguments {
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Wanted, Error> {
        let mut words = words.peekable();
        let mut found = Arguments { memory: DEFAULT_MEMORY, ..Arguments::default() };
        while let Some(option) = words.next_if(|word| word.as_bytes().starts_with(b"-")) {
            let option = option.to_string_lossy().into_owned();
            match option.as_str() {
                "--" => break,
                "-h" | "--help" => return Ok(Wanted::Help),
                "--version" => return Ok(Wanted::Version),
                _ => {}
            }
            let value = words.next().ok_or_else(|| Error::Usage(format!("{option} needs a value\n{USAGE}")))?;
            if option == "--probe" {
                return match value.as_bytes() {
                    b"spt" => Ok(Wanted::Probe(Target::Spt)),
                    b"hvt" => Ok(Wanted::Probe(Target::Hvt)),
                    _ => Err(Error::Usage("--probe: write spt or hvt".into())),
                };
            }
            found.take(&option, &value)?;
        }
        let image = words.next().ok_or_else(|| Error::Usage(format!("no image was named\n{USAGE}")))?;
        found.image = image;
        found.words = words.collect();
        Ok(Wanted::Run(found))
    }

    fn take(&mut self, option: &str, value: &OsStr) -> Result<(), Error> {
        let wrong = |wanted: &str| Error::Usage(format!("{option} {}: write {wanted}", value.to_string_lossy()));
        let text = || value.to_str().ok_or_else(|| wrong("text"));
        let twice = |name: &str| Error::Usage(format!("{option}: the device {name:?} is named twice"));
        match option {
            "--memory" => self.memory = text()?.parse().map_err(|_| wrong("a number of bytes"))?,
            "--block" => {
                let bytes = value.as_bytes();
                let at = bytes.iter().position(|byte| *byte == b'=').ok_or_else(|| wrong("NAME=FILE"))?;
                let name = String::from_utf8_lossy(&bytes[..at]).into_owned();
                let file = OsString::from_vec(bytes[at + 1..].to_vec());
                if name.is_empty() || file.is_empty() {
                    return Err(wrong("NAME=FILE"));
                }
                if self.block.insert(name.clone(), file).is_some() {
                    return Err(twice(&name));
                }
            }
            "--read-only" => self.read_only.push(text()?.to_owned()),
            "--block-size" => {
                let (name, size) = text()?.split_once('=').ok_or_else(|| wrong("NAME=BYTES"))?;
                let size = size.parse().ok().filter(|size: &u16| *size >= 512 && size.is_power_of_two());
                let size = size.ok_or_else(|| wrong("NAME=BYTES, a power of two from 512 to 32768"))?;
                self.block_size.insert(name.to_owned(), size);
            }
            "--net" => {
                let shape = "NAME=tap:INTERFACE or NAME=fd:N";
                let (name, what) = text()?.split_once('=').ok_or_else(|| wrong(shape))?;
                let net = match what.split_once(':') {
                    Some(("tap", interface)) if !interface.is_empty() => Net::Tap(interface.to_owned()),
                    Some(("fd", number)) => {
                        Net::Descriptor(number.parse().ok().filter(|fd| *fd > 2).ok_or_else(|| wrong(shape))?)
                    }
                    _ => return Err(wrong(shape)),
                };
                if self.net.insert(name.to_owned(), net).is_some() {
                    return Err(twice(name));
                }
            }
            "--mac" => {
                let shape = "NAME=02:00:00:00:00:01";
                let (name, address) = text()?.split_once('=').ok_or_else(|| wrong(shape))?;
                let mut mac = [0; 6];
                let mut parts = address.split(':');
                for byte in &mut mac {
                    let part = parts.next().filter(|part| part.len() == 2).ok_or_else(|| wrong(shape))?;
                    *byte = u8::from_str_radix(part, 16).map_err(|_| wrong(shape))?;
                }
                if parts.next().is_some() || mac[0] & 1 != 0 || mac == [0; 6] {
                    return Err(wrong(shape));
                }
                self.mac.insert(name.to_owned(), mac);
            }
            _ => return Err(Error::Usage(format!("unknown option {option}\n{USAGE}"))),
        }
        Ok(())
    }

    /// The words behind the image, as the one line that a unikernel gets.
    pub fn command_line(&self) -> Result<Vec<u8>, Error> {
        let line = self.words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&b' ');
        if line.len() >= COMMAND_LINE_SIZE {
            let most = COMMAND_LINE_SIZE - 1;
            return Err(Error::Usage(format!("the arguments are {} bytes, and a unikernel takes at most {most}", line.len())));
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Error> {
        match Arguments::parse(words.iter().map(OsString::from))? {
            Wanted::Run(arguments) => Ok(arguments),
            _ => panic!("{words:?}"),
        }
    }

    #[test]
    fn options_end_at_the_image() {
        let found = parse(&["--memory", "4096", "--block", "a=b=c", "--net", "n=tap:t0", "image", "--block", "x"]).unwrap();
        assert_eq!((found.memory, found.image.to_str(), found.words.len()), (4096, Some("image"), 2));
        assert_eq!(found.block["a"], "b=c");
        assert_eq!(found.net["n"], Net::Tap("t0".into()));
        assert_eq!(found.command_line().unwrap(), b"--block x");
        assert_eq!(parse(&["--mac", "n=02:00:00:00:00:fe", "--", "-image"]).unwrap().mac["n"], [2, 0, 0, 0, 0, 0xfe]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (words, message) in [
            (&["--memory", "4k", "i"][..], "number of bytes"),
            (&["--block", "a", "i"], "NAME=FILE"),
            (&["--block", "a=1", "--block", "a=2", "i"], "twice"),
            (&["--block-size", "a=521", "i"], "power of two"),
            (&["--block-size", "a=65536", "i"], "power of two"),
            (&["--net", "a=eth0", "i"], "tap:INTERFACE"),
            (&["--net", "a=fd:1", "i"], "fd:N"),
            (&["--mac", "a=03:00:00:00:00:00", "i"], "02:00"),
            (&["--mac", "a=2:0:0:0:0:0", "i"], "02:00"),
            (&["--wrong", "a", "i"], "unknown option --wrong"),
            (&["--memory"], "needs a value"),
            (&["--memory", "4096"], "no image"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.to_string().contains(message), "{words:?}: {error}");
            assert_eq!(error.status(), 2);
        }
        let long = "x".repeat(COMMAND_LINE_SIZE);
        assert!(parse(&["i", &long]).unwrap().command_line().is_err());
        assert!(parse(&["i", &long[1..]]).unwrap().command_line().is_ok());
    }
}
