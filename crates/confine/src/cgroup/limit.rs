//! Making one group and setting its limits. The two versions differ in their files, and in where processes may be:
//! version two lets them be in leaves only, so a group there has two inside, `sentry` and `guests`; and if processes in
//! our own group are in the way, a group above it serves, unless a limit would be left behind by that.

use super::group::{sweep, Group, GUESTS, SENTRY};
use super::hierarchy::{Controller, Place, Version};
use super::{Joined, Needs};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{read_to_string, File};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The period of a CPU quota, in microseconds.
const PERIOD_US: u64 = 100_000;
/// The least quota that Linux takes.
const LEAST_QUOTA_US: u64 = 1_000;
/// What is limited, with a remark on each; and the doors, as [`Joined`] has them.
type Filled = (BTreeMap<Controller, &'static str>, Option<File>, Option<File>);

/// A group for `controllers` in `place` with its limits set. The error says why there is none.
pub fn make(place: &Place, controllers: &[Controller], needs: &Needs) -> Result<Joined, String> {
    match place.version {
        Version::One => make_below(Version::One, &place.own, |group| fill_one(group, controllers, needs)),
        Version::Two => make_two(place, controllers, needs),
    }
}

fn make_below(version: Version, parent: &Path, fill: impl FnOnce(&Group) -> io::Result<Filled>) -> Result<Joined, String> {
    sweep(parent, Duration::ZERO);
    let group = Group::make(parent).map_err(|error| format!("a cgroup cannot be made in {}: {error}", parent.display()))?;
    match fill(&group) {
        Ok((controllers, sentry, guests)) => Ok(Joined { version, controllers, group, sentry, guests }),
        Err(error) => {
            group.end();
            Err(format!("limits cannot be set in {}: {error}", parent.display()))
        }
    }
}

fn quota_us(needs: &Needs) -> u64 {
    ((needs.limits.cpus.unwrap_or(f64::MAX) * PERIOD_US as f64).round() as u64).max(LEAST_QUOTA_US)
}

fn memory(needs: &Needs) -> String {
    needs.limits.memory.unwrap_or(u64::MAX).to_string()
}

/// How many host tasks: the guest's, and what goes with them. `left_behind`: a limit that would hold otherwise.
fn guest_tasks(needs: &Needs, left_behind: Option<u64>) -> String {
    let own = u64::from(needs.limits.pids.unwrap_or(u32::MAX)) + needs.spare_tasks;
    left_behind.map_or(own, |other| own.min(other)).to_string()
}

fn fill_one(group: &Group, controllers: &[Controller], needs: &Needs) -> io::Result<Filled> {
    let mut filled = BTreeMap::new();
    for controller in controllers {
        let remark = match controller {
            Controller::Memory => {
                group.write("memory.limit_in_bytes", &memory(needs))?;
                // Memory and swap together; not there where the host does not account for swap.
                match group.write("memory.memsw.limit_in_bytes", &memory(needs)) {
                    Ok(()) => "",
                    Err(_) => " (what the host swaps out is not counted)",
                }
            }
            Controller::Cpu => {
                group.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                match group.write("cpu.cfs_quota_us", &quota_us(needs).to_string()) {
                    // Version one refuses more than a group above has. That one's quota holds then.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) && quota_above(group) => {
                        " (a smaller quota that it was started under holds)"
                    }
                    result => result.map(|()| "")?,
                }
            }
            // Where it shares a hierarchy with others, the sentry's threads count too: one for each blocked call.
            Controller::Pids if controllers.len() > 1 => {
                let tasks = u64::from(needs.limits.pids.unwrap_or(u32::MAX)) * 2 + needs.spare_tasks;
                group.write("pids.max", &tasks.to_string())?;
                ""
            }
            Controller::Pids => {
                group.write("pids.max", &guest_tasks(needs, None))?;
                ""
            }
        };
        filled.insert(*controller, remark);
    }
    let door = Some(group.open("cgroup.procs", OFlags::WRONLY)?);
    Ok(if controllers == [Controller::Pids] { (filled, None, door) } else { (filled, door, None) })
}

/// Another limit of memory or CPUs, in a group that has one.
pub fn change(version: Version, group: &Group, controller: Controller, needs: &Needs) -> io::Result<()> {
    match (controller, version) {
        (Controller::Memory, Version::One) => {
            // Memory alone may never have more than memory and swap together, where the host knows of that.
            let (both, alone) = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes");
            let grows = group.write(both, &memory(needs)).is_ok();
            group.write(alone, &memory(needs))?;
            if !grows {
                let _ = group.write(both, &memory(needs));
            }
            Ok(())
        }
        (Controller::Memory, Version::Two) => group.write("memory.max", &memory(needs)),
        (Controller::Cpu, Version::One) => group.write("cpu.cfs_quota_us", &quota_us(needs).to_string()),
        (Controller::Cpu, Version::Two) => group.write("cpu.max", &format!("{} {PERIOD_US}", quota_us(needs))),
        (Controller::Pids, _) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn quota_above(group: &Group) -> bool {
    group.path.ancestors().skip(1).any(|above| quota(Version::One, above).is_some())
}

fn make_two(place: &Place, controllers: &[Controller], needs: &Needs) -> Result<Joined, String> {
    let mut first_reason = None;
    let mut pids_left_behind: Option<u64> = None;
    for parent in place.upwards() {
        let made = hand_down(parent, controllers)
            .and_then(|()| make_below(Version::Two, parent, |group| fill_two(group, controllers, needs, pids_left_behind)));
        let why = match made {
            Ok(joined) => return Ok(joined),
            Err(why) => first_reason.get_or_insert(why),
        };
        // A group above holds us too, but not what limits this one.
        if let Some(limit) = ["memory.max", "memory.high", "cpu.max"].into_iter().find(|limit| value(parent, limit).is_some()) {
            return Err(format!("{why}; a group above it would escape its {limit}"));
        }
        pids_left_behind =
            value(parent, "pids.max").and_then(|text| text.parse().ok()).into_iter().chain(pids_left_behind).min();
    }
    Err(first_reason.unwrap_or_default())
}

/// What is set in a file of `group`; `None` where it is "max" or not there.
fn value(group: &Path, file: &str) -> Option<String> {
    let text = read_to_string(group.join(file)).ok()?;
    let text = text.trim();
    (!text.is_empty() && !text.starts_with("max")).then(|| text.to_owned())
}

/// Makes sure that groups in `parent` have the controllers.
fn hand_down(parent: &Path, controllers: &[Controller]) -> Result<(), String> {
    let file = parent.join("cgroup.subtree_control");
    let present = read_to_string(&file).unwrap_or_default();
    let absent: Vec<String> = controllers
        .iter()
        .map(|controller| controller.name())
        .filter(|name| !present.split_ascii_whitespace().any(|known| known == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    std::fs::write(&file, absent.join(" ")).map_err(|error| {
        let hint = if error.raw_os_error() == Some(libc::EBUSY) { " (processes are in it)" } else { "" };
        format!("{} does not hand controllers down: {error}{hint}", parent.display())
    })
}

fn fill_two(group: &Group, controllers: &[Controller], needs: &Needs, pids_left_behind: Option<u64>) -> io::Result<Filled> {
    let mut filled = BTreeMap::new();
    for controller in controllers {
        let remark = match controller {
            Controller::Memory => {
                group.write("memory.max", &memory(needs))?;
                match group.write("memory.swap.max", "0") {
                    Ok(()) => "",
                    Err(_) => " (what the host swaps out is not counted)",
                }
            }
            Controller::Cpu => {
                group.write("cpu.max", &format!("{} {PERIOD_US}", quota_us(needs)))?;
                ""
            }
            Controller::Pids => {
                group.write("cgroup.subtree_control", "+pids")?;
                ""
            }
        };
        filled.insert(*controller, remark);
    }
    if !controllers.contains(&Controller::Pids) {
        return Ok((filled, Some(group.open("cgroup.procs", OFlags::WRONLY)?), None));
    }
    group.make_inner(SENTRY)?;
    group.make_inner(GUESTS)?;
    group.write(&format!("{GUESTS}/pids.max"), &guest_tasks(needs, pids_left_behind))?;
    let door = |inner: &str| group.open(&format!("{inner}/cgroup.procs"), OFlags::WRONLY).map(Some);
    Ok((filled, door(SENTRY)?, door(GUESTS)?))
}

/// CPUs that a group's quota leaves; `None` without one.
fn quota(version: Version, group: &Path) -> Option<f64> {
    let number = |file: &str| read_to_string(group.join(file)).ok()?.trim().parse::<f64>().ok();
    let (quota, period) = match version {
        Version::One => (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?),
        Version::Two => {
            let text = value(group, "cpu.max")?;
            let (quota, period) = text.split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
    };
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The smallest quota among our group and those above it.
pub fn lowest_quota(place: &Place) -> Option<f64> {
    place.upwards().filter_map(|group| quota(place.version, group)).reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_control::Limits;

    /// A directory that has the files of a group, as plain files.
    fn fake(files: &[(&str, &str)]) -> std::path::PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skerry-test-cgroup-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        path
    }

    #[test]
    fn quotas_are_read_in_both_versions() {
        let two = fake(&[("cpu.max", "150000 100000\n")]);
        let open = fake(&[("cpu.max", "max 100000\n")]);
        let one = fake(&[("cpu.cfs_quota_us", "50000\n"), ("cpu.cfs_period_us", "100000\n")]);
        let none = fake(&[("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n")]);
        assert_eq!(quota(Version::Two, &two), Some(1.5));
        assert_eq!(quota(Version::Two, &open), None);
        assert_eq!(quota(Version::One, &one), Some(0.5));
        assert_eq!(quota(Version::One, &none), None);
        for path in [two, open, one, none] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[test]
    fn a_group_with_a_memory_limit_is_not_left() {
        // Handing down fails (the file cannot be written), and a limit is in the way of going up.
        let own = fake(&[("memory.max", "1000000\n")]);
        std::fs::create_dir(own.join("cgroup.subtree_control")).unwrap();
        let place = Place { version: Version::Two, top: own.parent().unwrap().to_owned(), own: own.clone() };
        let why = make(&place, &[Controller::Memory], &Needs { limits: &Limits::default(), spare_tasks: 0 }).err().unwrap();
        assert!(why.contains("would escape its memory.max"), "{why}");
        std::fs::remove_dir_all(own).unwrap();
    }

    #[test]
    fn limits_are_set_anew_in_both_versions() {
        let parent = fake(&[]);
        let group = Group::make(&parent).unwrap();
        let limits = Limits { memory: Some(5 << 20), cpus: Some(1.5), ..Limits::default() };
        let needs = Needs { limits: &limits, spare_tasks: 0 };
        assert!(change(Version::Two, &group, Controller::Memory, &needs).is_err());
        let files = ["memory.max", "cpu.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us"];
        for file in files {
            std::fs::write(group.path.join(file), "").unwrap();
        }
        for version in [Version::One, Version::Two] {
            change(version, &group, Controller::Memory, &needs).unwrap();
            change(version, &group, Controller::Cpu, &needs).unwrap();
            assert!(change(version, &group, Controller::Pids, &needs).is_err());
        }
        let written = files.map(|file| std::fs::read_to_string(group.path.join(file)).unwrap());
        assert_eq!(written, ["5242880", "150000 100000", "5242880", "5242880", "150000"]);
        std::fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn numbers() {
        let limits = Limits { cpus: Some(0.5), pids: Some(10), ..Limits::default() };
        let needs = Needs { limits: &limits, spare_tasks: 7 };
        assert_eq!(quota_us(&needs), 50_000);
        assert_eq!(quota_us(&Needs { limits: &Limits { cpus: Some(0.000_01), ..Limits::default() }, ..needs }), LEAST_QUOTA_US);
        assert_eq!(guest_tasks(&needs, None), 17.to_string());
        assert_eq!(guest_tasks(&needs, Some(5)), "5");
    }
}
