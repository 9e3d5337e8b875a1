//! Labels of security modules: an AppArmor profile, an SELinux context. Both are asked for before a program starts and take
//! hold when it does; the host must have the module and know the label.

use crate::failure;
use skerry_control::{Failure, FailureKind, Rules};

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const APPARMOR_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// The host has what the rules ask for.
pub fn check(rules: &Rules) -> Result<(), Failure> {
    let refuse = |clause: &str, why: String| {
        Err(failure(FailureKind::Unenforceable, format!("{clause} cannot be held here: {why}; take the clause out")))
    };
    if let Some(profile) = &rules.apparmor {
        if profile.is_empty() || profile.contains(|letter: char| letter.is_control()) {
            return Err(failure(FailureKind::Invalid, "apparmor: this is not the name of a profile"));
        }
        if std::fs::read(APPARMOR).ok().is_none_or(|text| !text.starts_with(b"Y")) {
            return refuse("apparmor", "this host has no AppArmor, or it is off".into());
        }
        // Only root may read which are loaded; for others the program's start tells.
        if let Ok(loaded) = std::fs::read_to_string(APPARMOR_PROFILES) {
            if !loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile)) {
                return refuse("apparmor", format!("the profile {profile} is not loaded (apparmor_parser --replace does it)"));
            }
        }
    }
    if let Some(context) = &rules.selinux {
        if context.split(':').count() < 3 || context.contains(|letter: char| letter.is_control()) {
            return Err(failure(FailureKind::Invalid, "selinux: this is not a context (user:role:type[:level])"));
        }
        match std::fs::read(SELINUX).ok().as_deref() {
            None => return refuse("selinux", "this host has no SELinux, or it is off".into()),
            Some([b'0', ..]) => return refuse("selinux", "SELinux is permissive on this host, and denies nothing".into()),
            Some(_) => {}
        }
    }
    Ok(())
}

/// What a process writes below /proc/self before it becomes a program.
pub fn of(rules: &Rules) -> Vec<(&'static str, String)> {
    let apparmor = rules.apparmor.iter().map(|profile| ("attr/apparmor/exec", format!("exec {profile}")));
    let selinux = rules.selinux.iter().map(|context| ("attr/exec", context.clone()));
    apparmor.chain(selinux).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_as_text() {
        let apparmor = |name: &str| Rules { apparmor: Some(name.into()), ..Rules::default() };
        let selinux = |name: &str| Rules { selinux: Some(name.into()), ..Rules::default() };
        for wrong in [apparmor(""), apparmor("a\nb"), selinux("skerry_t"), selinux("a:b:c\0")] {
            assert_eq!(check(&wrong).unwrap_err().kind, FailureKind::Invalid);
        }
        assert_eq!(of(&apparmor("skerry")), [("attr/apparmor/exec", "exec skerry".to_owned())]);
        assert_eq!(of(&selinux("u:r:t:s0")), [("attr/exec", "u:r:t:s0".to_owned())]);
        assert!(check(&Rules::default()).is_ok() && of(&Rules::default()).is_empty());
    }
}
