//! Where the host's control groups are, and which group of each hierarchy we are in: read from /proc/self/cgroup and
//! /proc/self/mountinfo (cgroups(7), proc_pid_mountinfo(5)).

use std::path::{Component, Path, PathBuf};

/// What a limit of ours needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub const ALL: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(match self {
            Version::One => "cgroup v1",
            Version::Two => "cgroup v2",
        })
    }
}

/// Our own group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub version: Version,
    /// Where the hierarchy is mounted: the highest group that can be seen.
    pub top: PathBuf,
    /// Our group; `top` or below.
    pub own: PathBuf,
}

impl Place {
    /// Our group, and those above it that can be seen.
    pub fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|group| group.starts_with(&self.top))
    }
}

/// The host's hierarchies, as far as we are in them and see them.
#[derive(Debug, Default)]
pub struct Hierarchies {
    /// Version one: each with the controllers that are mounted in it.
    ones: Vec<(Vec<String>, Place)>,
    pub two: Option<Place>,
}

impl Hierarchies {
    /// This process's.
    pub fn read() -> std::io::Result<Hierarchies> {
        Ok(Hierarchies::parse(
            &std::fs::read_to_string("/proc/self/cgroup")?,
            &std::fs::read_to_string("/proc/self/mountinfo")?,
        ))
    }

    pub fn parse(groups: &str, mounts: &str) -> Hierarchies {
        // "4:memory:/path", "1:name=systemd:/path", "0::/path"
        let groups: Vec<(&str, &str)> = groups
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                Some((fields.next()?, fields.next()?))
            })
            .collect();
        let mut found = Hierarchies::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            let group = match mount.version {
                Version::Two => groups.iter().find(|(controllers, _)| controllers.is_empty()),
                Version::One => groups.iter().find(|(controllers, _)| {
                    controllers.split(',').any(|controller| mount.options.split(',').any(|option| option == controller))
                }),
            };
            let Some((controllers, path)) = group else { continue };
            let Some(own) = mount.path_of(path) else { continue };
            let place = Place { version: mount.version, top: mount.point.clone(), own };
            match mount.version {
                Version::Two => found.two = Some(found.two.take().unwrap_or(place)),
                Version::One => found.ones.push((controllers.split(',').map(str::to_owned).collect(), place)),
            }
        }
        found
    }

    /// Where `controller` is: a hierarchy of its own (version one), else version two's, if it is not kept from our group.
    pub fn of(&self, controller: Controller) -> Result<Place, String> {
        let one = self.ones.iter().find(|(controllers, _)| controllers.iter().any(|name| name == controller.name()));
        if let Some((_, place)) = one {
            return Ok(place.clone());
        }
        let Some(two) = &self.two else { return Err("no cgroup file system that shows our group is mounted".into()) };
        let has = |group: &Path| {
            let controllers = std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_ascii_whitespace().any(|name| name == controller.name())
        };
        if has(&two.own) {
            Ok(two.clone())
        } else {
            Err(format!("the {} controller is not available in {}", controller.name(), two.own.display()))
        }
    }
}

struct Mount<'a> {
    version: Version,
    /// The group that is mounted.
    root: &'a str,
    point: PathBuf,
    /// Of the file system; version one's controllers are among them.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /root /point rw,noatime shared:1 - cgroup cgroup rw,memory`
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = file_system.split(' ');
        let version = match fields.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let options = fields.nth(1)?;
        Some(Mount { version, root, point: PathBuf::from(unescaped(point)), options })
    }

    /// Where the group `path` is seen; `None` where this mount does not show it.
    fn path_of(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        // A group outside of our cgroup namespace is told as "/../..".
        let plain = below.components().all(|component| matches!(component, Component::Normal(_)));
        plain.then(|| if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }
}

/// mountinfo writes blanks and backslashes in octal.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 20 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
        34 20 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        35 20 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        40 20 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_host_has_controllers_in_version_one() {
        let found = Hierarchies::parse("4:memory:/a/b\n1:cpu:/\n9:name=systemd:/s\n0::/x\n", HYBRID);
        let memory = found.of(Controller::Memory).unwrap();
        assert_eq!((memory.version, memory.own), (Version::One, "/sys/fs/cgroup/memory/a/b".into()));
        let cpu = found.of(Controller::Cpu).unwrap();
        assert_eq!((cpu.own.clone(), cpu.top), ("/sys/fs/cgroup/cpu".into(), "/sys/fs/cgroup/cpu".into()));
        assert_eq!(found.two.as_ref().unwrap().own, Path::new("/sys/fs/cgroup/unified/x"));
        assert!(found.of(Controller::Pids).unwrap_err().contains("not available"));
    }

    #[test]
    fn controllers_that_share_a_hierarchy() {
        let mounts = "30 20 0:27 /docker/1 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        let found = Hierarchies::parse("3:cpu,cpuacct:/docker/1/in\n", mounts);
        assert_eq!(found.of(Controller::Cpu).unwrap().own, Path::new("/sys/fs/cgroup/cpu,cpuacct/in"));
    }

    #[test]
    fn a_group_that_the_mount_does_not_show_is_no_place() {
        let mounts = "30 20 0:27 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for path in ["/docker/2", "/", "/docker/1/../2", "/../.."] {
            assert!(Hierarchies::parse(&format!("0::{path}\n"), mounts).two.is_none(), "{path}");
        }
        let own = Hierarchies::parse("0::/docker/1\n", mounts).two.unwrap();
        assert_eq!(own.upwards().collect::<Vec<_>>(), [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn names_with_blanks() {
        assert_eq!(unescaped(r"/a\040b\134c\9"), r"/a b\c\9");
    }
}
