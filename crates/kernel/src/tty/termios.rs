//! Terminal attributes (termios(3)) as the kernel's ioctls move them (TCGETS and its relatives, ioctl_tty(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// c_iflag.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Input: u32 {
        const IGNBRK = 0o1;
        const BRKINT = 0o2;
        const IGNPAR = 0o4;
        const PARMRK = 0o10;
        const INPCK = 0o20;
        const ISTRIP = 0o40;
        const INLCR = 0o100;
        const IGNCR = 0o200;
        const ICRNL = 0o400;
        const IUCLC = 0o1000;
        const IXON = 0o2000;
        const IXANY = 0o4000;
        const IXOFF = 0o10000;
        const IMAXBEL = 0o20000;
        const IUTF8 = 0o40000;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// c_oflag.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Output: u32 {
        const OPOST = 0o1;
        const OLCUC = 0o2;
        const ONLCR = 0o4;
        const OCRNL = 0o10;
        const ONOCR = 0o20;
        const ONLRET = 0o40;
        /// Both bits: tabs are written as spaces.
        const XTABS = 0o14000;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// c_lflag.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Local: u32 {
        const ISIG = 0o1;
        const ICANON = 0o2;
        const XCASE = 0o4;
        const ECHO = 0o10;
        const ECHOE = 0o20;
        const ECHOK = 0o40;
        const ECHONL = 0o100;
        const NOFLSH = 0o200;
        const TOSTOP = 0o400;
        const ECHOCTL = 0o1000;
        const ECHOPRT = 0o2000;
        const ECHOKE = 0o4000;
        const FLUSHO = 0o10000;
        const PENDIN = 0o40000;
        const IEXTEN = 0o100000;
        const EXTPROC = 0o200000;
        const _ = !0;
    }
}

/// Indexes of the special characters.
pub const VINTR: usize = 0;
pub const VQUIT: usize = 1;
pub const VERASE: usize = 2;
pub const VKILL: usize = 3;
pub const VEOF: usize = 4;
pub const VTIME: usize = 5;
pub const VMIN: usize = 6;
pub const VSTART: usize = 8;
pub const VSTOP: usize = 9;
pub const VSUSP: usize = 10;
pub const VEOL: usize = 11;
pub const VREPRINT: usize = 12;
pub const VWERASE: usize = 14;
pub const VLNEXT: usize = 15;
pub const VEOL2: usize = 16;

/// c_cflag: B38400, CS8, CREAD, HUPCL.
const B38400: u32 = 0o17;
const CBAUD: u32 = 0o10017;
const BOTHER: u32 = 0o10000;
const CSIZE: u32 = 0o60;
const CS8: u32 = 0o60;
const CREAD: u32 = 0o200;
const PARENB: u32 = 0o400;
const CIBAUD_SHIFT: u32 = 16;

/// Attributes of a terminal: `struct termios2` of the kernel, 44 bytes; its first 36 are `struct termios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub characters: [u8; 19],
    pub input_speed: u32,
    pub output_speed: u32,
}

/// The size of `struct termios`, which lacks the speeds.
pub const TERMIOS_SIZE: usize = 36;

/// `struct termio` (TCGETA), 18 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termio {
    pub iflag: u16,
    pub oflag: u16,
    pub cflag: u16,
    pub lflag: u16,
    pub line: u8,
    pub characters: [u8; 8],
    pub _padding: u8,
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
    pub width_pixels: u16,
    pub height_pixels: u16,
}

impl Default for Termios {
    /// Linux's tty_std_termios.
    fn default() -> Termios {
        let mut characters = [0; 19];
        for (index, character) in [
            (VINTR, 3),
            (VQUIT, 0o34),
            (VERASE, 0o177),
            (VKILL, 0o25),
            (VEOF, 4),
            (VMIN, 1),
            (VSTART, 0o21),
            (VSTOP, 0o23),
            (VSUSP, 0o32),
            (VREPRINT, 0o22),
            (13, 0o17),
            (VWERASE, 0o27),
            (VLNEXT, 0o26),
        ] {
            characters[index] = character;
        }
        Termios {
            iflag: (Input::ICRNL | Input::IXON).bits(),
            oflag: (Output::OPOST | Output::ONLCR).bits(),
            cflag: B38400 | CS8 | CREAD,
            lflag: (Local::ISIG
                | Local::ICANON
                | Local::ECHO
                | Local::ECHOE
                | Local::ECHOK
                | Local::ECHOCTL
                | Local::ECHOKE
                | Local::IEXTEN)
                .bits(),
            line: 0,
            characters,
            input_speed: 38400,
            output_speed: 38400,
        }
    }
}

/// Speeds by the number in c_cflag: B0 to B38400, and behind CBAUDEX B57600 to B4000000.
const SPEEDS: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const EXTENDED_SPEEDS: [u32; 16] = [
    0, 57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000,
    3_000_000, 3_500_000, 4_000_000,
];

fn speed_of(bits: u32, given: u32) -> u32 {
    let index = (bits & 0o17) as usize;
    match bits & BOTHER {
        0 => SPEEDS[index],
        _ if index == 0 => given,
        _ => EXTENDED_SPEEDS[index],
    }
}

impl Termios {
    pub fn input(&self) -> Input {
        Input::from_bits_retain(self.iflag)
    }
    pub fn output(&self) -> Output {
        Output::from_bits_retain(self.oflag)
    }
    pub fn local(&self) -> Local {
        Local::from_bits_retain(self.lflag)
    }
    /// 0 where the character is disabled (POSIX_VDISABLE).
    pub fn character(&self, index: usize) -> u8 {
        self.characters.get(index).copied().unwrap_or(0)
    }
    /// Whether `byte` is the special character at `index`, which may be disabled.
    pub fn is(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.character(index) == byte
    }

    /// What TCSETS and its relatives make of `wanted`: a pseudo-terminal has eight bits and no parity, and its speeds
    /// follow c_cflag.
    pub fn accepted(mut wanted: Termios) -> Termios {
        wanted.cflag = wanted.cflag & !(CSIZE | PARENB) | CS8 | CREAD;
        let input_bits = (wanted.cflag >> CIBAUD_SHIFT) & CBAUD;
        wanted.output_speed = speed_of(wanted.cflag & CBAUD, wanted.output_speed);
        wanted.input_speed = if input_bits == 0 { wanted.output_speed } else { speed_of(input_bits, wanted.input_speed) };
        wanted
    }

    pub fn termio(&self) -> Termio {
        let mut characters = [0; 8];
        characters.copy_from_slice(&self.characters[..8]);
        Termio {
            iflag: self.iflag as u16,
            oflag: self.oflag as u16,
            cflag: self.cflag as u16,
            lflag: self.lflag as u16,
            line: self.line,
            characters,
            _padding: 0,
        }
    }

    /// With the low halves and the first characters of a `struct termio` (TCSETA).
    pub fn with_termio(&self, termio: &Termio) -> Termios {
        let low = |old: u32, new: u16| old & 0xffff_0000 | u32::from(new);
        let mut new = Termios {
            iflag: low(self.iflag, termio.iflag),
            oflag: low(self.oflag, termio.oflag),
            cflag: low(self.cflag, termio.cflag),
            lflag: low(self.lflag, termio.lflag),
            line: termio.line,
            ..*self
        };
        new.characters[..8].copy_from_slice(&termio.characters);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!((size_of::<Termios>(), size_of::<Termio>(), size_of::<WindowSize>()), (44, 18, 8));
        assert_eq!(std::mem::offset_of!(Termios, input_speed), TERMIOS_SIZE);
    }

    #[test]
    fn a_pseudo_terminal_keeps_eight_bits_and_derives_its_speed() {
        let wanted = Termios { cflag: 0o15 | PARENB, ..Termios::default() };
        let accepted = Termios::accepted(wanted);
        assert_eq!(accepted.cflag & (CSIZE | PARENB), CS8);
        assert_eq!((accepted.input_speed, accepted.output_speed), (9600, 9600));
        let other = Termios::accepted(Termios { cflag: BOTHER, output_speed: 12345, ..Termios::default() });
        assert_eq!(other.output_speed, 12345);
        assert_eq!(Termios::accepted(Termios { cflag: 0o10002, ..Termios::default() }).output_speed, 115_200);
    }

    #[test]
    fn the_old_structure_changes_only_what_it_has() {
        let termios = Termios { lflag: 0x1_0000 | Local::ICANON.bits(), ..Termios::default() };
        let mut old = termios.termio();
        old.lflag = 0;
        assert_eq!(termios.with_termio(&old).lflag, 0x1_0000);
    }
}
