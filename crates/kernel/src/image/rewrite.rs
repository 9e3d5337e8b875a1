//! The rewriting of system call sites.
//!
//! A site keeps a valid instruction at its own address and at the one behind it, whatever happens: a thread that stands
//! there (in a signal's frame, behind a fork) and an unwinder see what they would see in the plain file, and a call that
//! is made once more from the site's own address works. Two forms do that:
//!
//! ```text
//!      mov  $n,%eax               jmp  trampoline              the `syscall` stays, for those who come back to it
//!      syscall             =>     syscall
//!
//!      syscall             =>     jmp  near (2 bytes)          near: jmp trampoline, within 127 bytes
//! ```
//!
//! and a trampoline, whose last part several may share, is
//!
//! ```text
//!      mov  $n,%eax               (first form only)
//!      lea  behind(%rip),%rcx     where the call returns to: the instruction behind the `syscall`
//!      jmp  *%gs:0x100            the stub's direct entry
//! ```
//!
//! Where one `lea` comes between the load and the `syscall`, that is made in the trampoline first. A trampoline may be in pieces with jumps between them. The stub knows a thread within it by these bytes alone
//! (`trampoline.rs` there): up to the last jump, nothing has happened yet.
//!
//! A `cpuid` is a trap to the hypervisor wherever there is one (microseconds each, and the dynamic linker makes eighty), so
//! those that can be moved go to the stub as well, which knows most of the answers:
//!
//! ```text
//!      cpuid                      jmp  trampoline
//!      mov   %eax,%edx     =>
//!      and   $31,%edx             (never run)
//!
//!      trampoline:  lea  here(%rip),%rdx;  jmp *%gs:0x1e0;  here:  mov %eax,%edx;  and $31,%edx;  jmp  back
//! ```
//!
//! Most have the load of their leaf right before them, which makes room for the jump as a call's number does. Nothing is moved then but
//! that, so that it can be done wherever branches lead.
//!
//! ```text
//!      mov  $2,%eax               jmp  trampoline              the `cpuid` stays, for those who come to it
//!      cpuid               =>     cpuid
//!
//!      trampoline:  mov  $2,%eax;  lea  behind(%rip),%rdx;  jmp *%gs:0x1e0
//! ```

use super::code::{Between, Identification, Load, Site, JUMP_LENGTH};
use super::padding::Padding;
use super::{Run, PAGE};
use std::ops::Range;

/// Bytes that replace others, at an offset of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub at: u64,
    pub bytes: Vec<u8>,
}

impl Patch {
    fn lies_in(&self, runs: &[Run]) -> bool {
        let end = self.at + self.bytes.len() as u64;
        runs.iter().any(|run| run.start <= self.at && end <= run.end)
    }
}

/// `jmp *%gs:0x100`.
const ENTER: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0x00, 0x01, 0x00, 0x00];
/// `jmp *%gs:0x1e0`.
const IDENTIFY: [u8; 8] = [0x65, 0xff, 0x24, 0x25, 0xe0, 0x01, 0x00, 0x00];
/// `lea address(%rip),%rdx`.
const LOAD_RDX: [u8; 3] = [0x48, 0x8d, 0x15];
const LOAD_LENGTH: u64 = 5;
const RETURN_LENGTH: u64 = 7;

/// Calls that need a frame of the host's anyway, or seldom come back, and those whose sites others know by their bytes:
/// rt_sigreturn (debuggers, unwinders), vfork, execve, exit, execveat, clone3.
const LEFT_ALONE: [u32; 6] = [15, 58, 59, 60, 322, 435];

/// Of these, and of calls whose number is loaded elsewhere (_exit(2)'s), the trampolines lie close to them, if there is room: clone, exit_group and
/// set_robust_list. A forked child makes them, which has nothing of its files in memory to begin with: the host maps sixteen pages at once.
const FIRST: [u32; 3] = [56, 231, 273];
const CLOSE: u64 = 2 * PAGE;
const ANYWHERE: Range<u64> = 0..u64::MAX;

/// Whether a site is worth a rewriting at all.
pub(super) fn is_wanted(site: &Site) -> bool {
    site.load.is_none_or(|load| !LEFT_ALONE.contains(&load.number))
}

/// Rewrites as many sites as there is room for in `padding`, with patches that lie within `runs`.
pub(super) fn rewrite(sites: &[Site], identifications: &[Identification], mut padding: Padding, runs: &[Run]) -> Vec<Patch> {
    let mut patches = Vec::new();
    let Some(exit) = padding.take(ENTER.len() as u64, ANYWHERE) else { return patches };
    patches.push(Patch { at: exit, bytes: ENTER.to_vec() });
    let mut lead = |site: &Site, reach: Range<u64>, exit: u64, padding: &mut Padding| {
        let mut group = Vec::new();
        let is_led =
            redirect(site, &reach, exit, padding, &mut group).is_some() && group.iter().all(|patch| patch.lies_in(runs));
        if is_led {
            patches.append(&mut group);
        }
        is_led
    };
    let mut exits = vec![exit];
    // The near jumps first: there are few places for each.
    let (long, short): (Vec<&Site>, Vec<&Site>) =
        sites.iter().filter(|site| is_wanted(site)).partition(|site| site.load.is_some());
    let (first, others): (Vec<&Site>, Vec<&Site>) =
        long.into_iter().partition(|site| site.load.is_some_and(|load| FIRST.contains(&load.number)));
    let mut left = Vec::new();
    for site in short.into_iter().chain(first) {
        let reach = site.at.saturating_sub(CLOSE)..site.at + CLOSE;
        let close = exits.iter().copied().find(|exit| reach.contains(exit));
        let close = close.or_else(|| padding.take(ENTER.len() as u64, reach.clone()).inspect(|exit| exits.push(*exit)));
        if !close.is_some_and(|exit| lead(site, reach, exit, &mut padding)) {
            left.push(site);
        }
    }
    for site in left.into_iter().chain(others) {
        lead(site, ANYWHERE, exit, &mut padding);
    }
    patches.extend(exits.drain(1..).map(|at| Patch { at, bytes: ENTER.to_vec() }));
    for one in identifications {
        let group = match one.load {
            Some(load) => lead_identification(one, load, &mut padding),
            None => move_identification(one, &mut padding),
        };
        if let Some(group) = group {
            if group.iter().all(|patch| patch.lies_in(runs)) {
                patches.extend(group);
            }
        }
    }
    patches
}

/// `None` where there is no room.
fn lead_identification(one: &Identification, load: [u8; JUMP_LENGTH as usize], padding: &mut Padding) -> Option<[Patch; 2]> {
    let length = JUMP_LENGTH + RETURN_LENGTH + IDENTIFY.len() as u64;
    let trampoline = padding.take(length, ANYWHERE)?;
    let mut bytes = load.to_vec();
    load_address(&mut bytes, LOAD_RDX, trampoline, one.end())?;
    bytes.extend(IDENTIFY);
    let site = one.replaced().start;
    Some([Patch { at: trampoline, bytes }, Patch { at: site, bytes: jump(site, trampoline)? }])
}

/// As above.
fn move_identification(one: &Identification, padding: &mut Padding) -> Option<[Patch; 2]> {
    let length = RETURN_LENGTH + IDENTIFY.len() as u64 + one.moved.len() as u64 + JUMP_LENGTH;
    let trampoline = padding.take(length, ANYWHERE)?;
    let mut bytes = Vec::with_capacity(length as usize);
    load_address(&mut bytes, LOAD_RDX, trampoline, trampoline + RETURN_LENGTH + IDENTIFY.len() as u64)?;
    bytes.extend(IDENTIFY);
    let (was, is) = (one.end() - one.moved.len() as u64, trampoline + bytes.len() as u64);
    let mut moved = one.moved.clone();
    for at in &one.distances {
        let distance = moved.get_mut(*at..)?.first_chunk_mut::<4>()?;
        let target = was as i64 + i64::from(i32::from_le_bytes(*distance));
        *distance = i32::try_from(target - is as i64).ok()?.to_le_bytes();
    }
    bytes.extend(moved);
    append_jump(&mut bytes, trampoline, one.end())?;
    let mut site = jump(one.at, trampoline)?;
    // What is left of the instructions that have been moved is never run.
    site.resize((one.end() - one.at) as usize, 0x90);
    Some([Patch { at: trampoline, bytes }, Patch { at: one.at, bytes: site }])
}

/// `None` where there is no room.
fn redirect(site: &Site, reach: &Range<u64>, exit: u64, padding: &mut Padding, patches: &mut Vec<Patch>) -> Option<()> {
    let behind = site.at + 2;
    match site.load {
        Some(load) => {
            let start = site.replaced().start;
            let trampoline = trampoline(Some(load), site.at, reach, exit, padding, patches)?;
            let mut bytes = jump(start, trampoline)?;
            // What is left of a longer load is never run.
            bytes.resize(load.length as usize, 0x90);
            patches.push(Patch { at: start, bytes });
        }
        None => {
            let near = padding.take(JUMP_LENGTH, behind.saturating_sub(128)..behind + 128)?;
            let Some(trampoline) = trampoline(None, site.at, reach, exit, padding, patches) else {
                padding.add(near, near + JUMP_LENGTH);
                return None;
            };
            patches.push(Patch { at: near, bytes: jump(near, trampoline)? });
            let distance = i8::try_from(near as i64 - behind as i64).ok()?;
            patches.push(Patch { at: site.at, bytes: vec![0xeb, distance as u8] });
        }
    }
    Some(())
}

/// Writes a trampoline for the call at `site`, within `reach`; returns where it begins.
fn trampoline(
    load: Option<Load>,
    site: u64,
    reach: &Range<u64>,
    exit: u64,
    padding: &mut Padding,
    patches: &mut Vec<Patch>,
) -> Option<u64> {
    let behind = site + 2;
    let between = load.and_then(|load| load.between);
    let load = load.map_or(Vec::new(), |load| [&[0xb8], &load.number.to_le_bytes()[..]].concat());
    let start = |at: u64| Some([between.map_or(Some(Vec::new()), |one| moved(one, site, at))?, load.clone()].concat());
    let length = (load.len() + between.map_or(0, |between| between.length)) as u64;
    if let Some(at) = padding.take(length + RETURN_LENGTH + ENTER.len() as u64, reach.clone()) {
        let mut bytes = start(at)?;
        load_return(&mut bytes, at, behind)?;
        bytes.extend(ENTER);
        patches.push(Patch { at, bytes });
        return Some(at);
    }
    if let Some(at) = padding.take(length + RETURN_LENGTH + JUMP_LENGTH, reach.clone()) {
        let mut bytes = start(at)?;
        load_return(&mut bytes, at, behind)?;
        append_jump(&mut bytes, at, exit)?;
        patches.push(Patch { at, bytes });
        return Some(at);
    }
    if load.is_empty() || between.is_some() {
        return None;
    }
    let second = padding.take(RETURN_LENGTH + JUMP_LENGTH, reach.clone())?;
    let Some(first) = padding.take(LOAD_LENGTH + JUMP_LENGTH, reach.clone()) else {
        padding.add(second, second + RETURN_LENGTH + JUMP_LENGTH);
        return None;
    };
    let mut bytes = Vec::new();
    load_return(&mut bytes, second, behind)?;
    append_jump(&mut bytes, second, exit)?;
    patches.push(Patch { at: second, bytes });
    let mut bytes = load;
    append_jump(&mut bytes, first, second)?;
    patches.push(Patch { at: first, bytes });
    Some(first)
}

/// What comes right before the call at `site`, as it is at `at`.
fn moved(between: Between, site: u64, at: u64) -> Option<Vec<u8>> {
    let mut bytes = between.bytes.get(..between.length)?.to_vec();
    if let Some(place) = between.distance {
        let distance = bytes.get_mut(place..)?.first_chunk_mut::<4>()?;
        let target = site as i64 + i64::from(i32::from_le_bytes(*distance));
        *distance = i32::try_from(target - (at as i64 + between.length as i64)).ok()?.to_le_bytes();
    }
    Some(bytes)
}

/// `lea behind(%rip),%rcx`, behind what is in `bytes`, which lie at `at`.
fn load_return(bytes: &mut Vec<u8>, at: u64, behind: u64) -> Option<()> {
    load_address(bytes, [0x48, 0x8d, 0x0d], at, behind)
}

/// `lea address(%rip)` into the register that `opcode` has.
fn load_address(bytes: &mut Vec<u8>, opcode: [u8; 3], at: u64, address: u64) -> Option<()> {
    let next = at + bytes.len() as u64 + RETURN_LENGTH;
    let distance = i32::try_from(address as i64 - next as i64).ok()?;
    bytes.extend(opcode);
    bytes.extend(distance.to_le_bytes());
    Some(())
}

fn append_jump(bytes: &mut Vec<u8>, at: u64, target: u64) -> Option<()> {
    bytes.extend(jump(at + bytes.len() as u64, target)?);
    Some(())
}

/// `jmp rel32`.
fn jump(at: u64, target: u64) -> Option<Vec<u8>> {
    let distance = i32::try_from(target as i64 - (at + JUMP_LENGTH) as i64).ok()?;
    Some([&[0xe9], &distance.to_le_bytes()[..]].concat())
}
