//! The host's control groups, where they are granted: the limits of the sandbox, held by the host.
//!
//! Each hierarchy that a limit needs gets a group of the sandbox's own (`group`), below the group that we were started in
//! (`hierarchy` finds it, `limit` sets it up). What is granted is found out by doing it; what is not is held the other
//! way (`crate::limits`), and `info` says which. The order: [`ControlGroups::make`] before the guardian and the sentry
//! part, so that both have hold of the groups; [`ControlGroups::join`] by the sentry, before it starts the zygote;
//! [`ControlGroups::take_in_guests`] before the zygote forks; [`ControlGroups::end`] by the guardian, when the sentry is
//! gone.
//!
//! Memory and CPU time count for the sentry and its guests together: the sentry holds in-memory files and serves calls on
//! their behalf. Guests have the highest out-of-memory score there is, so that the host never chooses the sentry. The
//! number of processes counts for guests alone (and for what waits to become one), as a second net: the guest kernel
//! counts them exactly.

mod group;
mod hierarchy;
mod limit;

use group::{put, Group};
use hierarchy::Hierarchies;
pub use hierarchy::{Controller, Version};
use rustix::fs::OFlags;
use skerry_control::Limits;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// The groups of a sandbox.
#[derive(Default)]
pub struct ControlGroups {
    joined: Vec<Joined>,
    /// Why a limit is not held by a group.
    reasons: BTreeMap<Controller, String>,
    /// CPUs, by a quota on the group that we were started in or one above it.
    inherited_quota: Option<f64>,
}

/// A group, with the files through which processes go into it.
struct Joined {
    version: Version,
    /// What it limits, and what is to be said about that.
    controllers: BTreeMap<Controller, &'static str>,
    group: Group,
    /// Where the sentry goes in, and its descendants with it; and where guests go, if elsewhere.
    sentry: Option<File>,
    guests: Option<File>,
}

/// What groups are made for.
#[derive(Clone, Copy)]
pub struct Needs<'a> {
    pub limits: &'a Limits,
    /// Host tasks beside the guest's own.
    pub spare_tasks: u64,
}

impl ControlGroups {
    /// Makes the groups that the limits need: none if no limit needs one, unless groups are `required` by name or for what
    /// nobody else holds.
    pub fn make(needs: &Needs, required: bool, switched_off: bool) -> ControlGroups {
        let limits = needs.limits;
        let mut groups = ControlGroups::default();
        let hierarchies = Hierarchies::read().map_err(|error| format!("/proc tells of no cgroups: {error}"));
        let cpu = hierarchies.as_ref().ok().and_then(|hierarchies| hierarchies.of(Controller::Cpu).ok());
        groups.inherited_quota = cpu.and_then(|place| limit::lowest_quota(&place));
        let asked = |controller: &Controller| match controller {
            Controller::Memory => limits.memory.is_some(),
            Controller::Cpu => limits.cpus.is_some(),
            Controller::Pids => limits.pids.is_some(),
        };
        if !(required || asked(&Controller::Memory) || asked(&Controller::Cpu)) {
            return groups;
        }
        let wanted: Vec<Controller> = Controller::ALL.into_iter().filter(asked).collect();
        let hierarchies = if switched_off { Err("switched off by a test".into()) } else { hierarchies };
        match hierarchies {
            Ok(hierarchies) => groups.make_in(&hierarchies, &wanted, needs),
            Err(why) => groups.reasons.extend(wanted.into_iter().map(|controller| (controller, why.clone()))),
        }
        groups
    }

    fn make_in(&mut self, hierarchies: &Hierarchies, wanted: &[Controller], needs: &Needs) {
        // What is in one hierarchy goes into one group.
        let mut places: Vec<(hierarchy::Place, Vec<Controller>)> = Vec::new();
        for &controller in wanted {
            match hierarchies.of(controller) {
                Ok(place) => match places.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, controllers)) => controllers.push(controller),
                    None => places.push((place, vec![controller])),
                },
                Err(why) => {
                    self.reasons.insert(controller, why);
                }
            }
        }
        // Version two's, even without a controller: it can end all that is in it at once.
        if let Some(two) = hierarchies.two.clone().filter(|two| !places.iter().any(|(place, _)| place == two)) {
            places.push((two, Vec::new()));
        }
        for (place, controllers) in places {
            match limit::make(&place, &controllers, needs) {
                Ok(joined) => self.joined.push(joined),
                Err(why) => self.reasons.extend(controllers.into_iter().map(|controller| (controller, why.clone()))),
            }
        }
    }

    /// There is something to end.
    pub fn any(&self) -> bool {
        !self.joined.is_empty()
    }

    /// The sentry goes into its groups. To be called with one thread.
    pub fn join(&mut self) {
        self.keep_if(|joined| joined.sentry.as_ref().map_or(Ok(()), |file| put(file, "0")));
    }

    /// Guests are to be made in their groups: `zygote` is where they come from.
    pub fn take_in_guests(&mut self, zygote: i32) {
        self.keep_if(|joined| joined.guests.as_ref().map_or(Ok(()), |file| put(file, &zygote.to_string())));
        let highest = self.version_of(Controller::Memory).is_some();
        if highest {
            // Whatever the sentry holds, it is less than the whole limit, which is what this score counts for.
            let _ = std::fs::write(format!("/proc/{zygote}/oom_score_adj"), "1000");
        }
    }

    /// Gives up the groups into which the host does not let us.
    fn keep_if(&mut self, enter: impl Fn(&Joined) -> io::Result<()>) {
        let mut reasons = Vec::new();
        self.joined.retain(|joined| match enter(joined) {
            Ok(()) => true,
            Err(error) => {
                let why = format!("processes cannot be moved into {}: {error}", joined.group.path.display());
                reasons.extend(joined.controllers.keys().map(|controller| (*controller, why.clone())));
                false
            }
        });
        self.reasons.extend(reasons);
    }

    fn holder(&self, controller: Controller) -> Option<&Joined> {
        self.joined.iter().find(|joined| joined.controllers.contains_key(&controller))
    }

    /// Which version's group holds a limit; `None`: no group does.
    pub fn version_of(&self, controller: Controller) -> Option<Version> {
        self.holder(controller).map(|joined| joined.version)
    }

    /// What to say of a limit that was asked for: held by which group, or why by none.
    pub fn describe(&self, controller: Controller) -> Result<String, &str> {
        match self.holder(controller) {
            Some(joined) => Ok(format!("{}{}", joined.version, joined.controllers[&controller])),
            None => Err(self.reasons.get(&controller).map_or("not asked for", String::as_str)),
        }
    }

    /// Why a limit cannot be set anew: no group holds it.
    pub fn must_hold(&self, controller: Controller) -> Result<(), String> {
        self.joined_for(controller).map(drop)
    }

    fn joined_for(&self, controller: Controller) -> Result<&Joined, String> {
        let why = || match self.reasons.get(&controller) {
            Some(why) => format!("no cgroup holds it: {why}"),
            None => "it was started without that limit".to_owned(),
        };
        self.holder(controller).ok_or_else(why)
    }

    /// Sets a limit anew that a group holds. The error says why not.
    pub fn change(&self, controller: Controller, limits: &Limits) -> Result<(), String> {
        let joined = self.joined_for(controller)?;
        limit::change(joined.version, &joined.group, controller, &Needs { limits, spare_tasks: 0 })
            .map_err(|error| format!("its cgroup does not take it: {error}"))
    }

    /// Why the groups are not all there; `None`: they are. `required` by name, they are there without any limit too.
    pub fn missing(&self) -> Option<String> {
        let reasons: Vec<String> =
            self.reasons.iter().map(|(controller, why)| format!("{}: {why}", controller.name())).collect();
        match (reasons.is_empty(), self.joined.is_empty()) {
            (true, false) => None,
            (true, true) => Some("no limit was asked for that the guest kernel does not hold by itself".into()),
            (false, _) => Some(reasons.join("; ")),
        }
    }

    /// CPUs that quotas of the host leave to the sandbox, its own (`asked`, where a group holds it) and those it is
    /// started under.
    pub fn cpu_quota(&self, asked: Option<f64>) -> Option<f64> {
        let own = asked.filter(|_| self.version_of(Controller::Cpu).is_some());
        own.into_iter().chain(self.inherited_quota).reduce(f64::min)
    }

    /// What the host tells of the memory of the group, where one limits it. To be opened before the sentry is confined.
    pub fn memory_events(&self) -> Option<MemoryEvents> {
        let joined = self.holder(Controller::Memory)?;
        let (events, peak) = match joined.version {
            Version::One => ("memory.oom_control", "memory.max_usage_in_bytes"),
            Version::Two => ("memory.events", "memory.peak"),
        };
        let open = |file| joined.group.open(file, OFlags::RDONLY).ok();
        Some(MemoryEvents { events: open(events)?, peak: open(peak).or_else(|| open("memory.current")) })
    }

    /// The limit of memory, to be set anew. To be opened before the sentry is confined.
    pub fn memory_limit(&self) -> Option<MemoryLimit> {
        let joined = self.holder(Controller::Memory)?;
        MemoryLimit::open(joined.version, &joined.group).ok()
    }

    /// What the host tells of processes that the limit kept from being made.
    pub fn process_events(&self) -> Option<ProcessEvents> {
        let joined = self.holder(Controller::Pids)?;
        let open = |file| joined.group.open(file, OFlags::RDONLY).ok();
        let events = ProcessEvents { events: open("guests/pids.events").or_else(|| open("pids.events"))? };
        // From here on it tells of changes.
        events.refusals();
        Some(events)
    }

    /// Ends whatever is still in the groups, and takes them away: the guardian's last act.
    pub fn end(self) {
        for joined in &self.joined {
            joined.group.end();
        }
    }
}

/// How it is learnt that processes were refused.
pub struct ProcessEvents {
    events: File,
}

impl ProcessEvents {
    /// How many have been. The next change is told of as exceptional (POLLPRI).
    pub fn refusals(&self) -> u64 {
        let text = text(&self.events).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("max ")).and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// To be polled.
    pub fn descriptor(&self) -> &File {
        &self.events
    }
}

/// Where a limit of memory is written to.
pub struct MemoryLimit {
    alone: File,
    /// Memory and swap together (version one).
    both: Option<File>,
}

impl MemoryLimit {
    fn open(version: Version, group: &Group) -> io::Result<MemoryLimit> {
        let open = |file| group.open(file, OFlags::WRONLY);
        Ok(match version {
            Version::One => MemoryLimit {
                alone: open("memory.limit_in_bytes")?,
                // Not there where the host does not account for swap.
                both: open("memory.memsw.limit_in_bytes").ok(),
            },
            Version::Two => MemoryLimit { alone: open("memory.max")?, both: None },
        })
    }

    /// So many bytes.
    pub fn set(&self, bytes: u64) -> io::Result<()> {
        let text = bytes.to_string();
        let together = || self.both.as_ref().map_or(Ok(()), |file| put(file, &text));
        // Memory alone may never have more than both: first that which grows, or last that which shrinks.
        let grows = together().is_ok();
        put(&self.alone, &text)?;
        if !grows {
            together()?;
        }
        Ok(())
    }
}

/// How the sentry learns what the host did for want of memory.
pub struct MemoryEvents {
    events: File,
    peak: Option<File>,
}

impl MemoryEvents {
    /// Processes that the host has killed because the limit was reached.
    pub fn kills(&self) -> u64 {
        let text = text(&self.events).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Bytes, the highest that there was.
    pub fn peak(&self) -> u64 {
        self.peak.as_ref().and_then(|file| text(file)?.trim().parse().ok()).unwrap_or(0)
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes[..length].to_vec()).ok()
}

/// Takes away what killed sandboxes have left in any place where we would make groups; says what.
pub fn sweep() -> Vec<PathBuf> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let Ok(hierarchies) = Hierarchies::read() else { return Vec::new() };
    let places =
        Controller::ALL.into_iter().filter_map(|controller| hierarchies.of(controller).ok()).chain(hierarchies.two.clone());
    let mut parents: Vec<PathBuf> =
        places.flat_map(|place| place.upwards().map(|group| group.to_owned()).collect::<Vec<_>>()).collect();
    parents.sort();
    parents.dedup();
    parents.iter().flat_map(|parent| group::sweep(parent, PATIENCE)).collect()
}
