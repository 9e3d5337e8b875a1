//! Capabilities: none, but what access to host files needs where the sentry was started with it.

use rustix::thread::{CapabilitySet, CapabilitySets};
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Layer, MountKind};

/// Drops all but CAP_DAC_READ_SEARCH, and with host trees that are written to also CAP_DAC_OVERRIDE, CAP_CHOWN,
/// CAP_FOWNER and CAP_FSETID; of these only what is there. To be called with one thread.
pub fn drop_all_but_file_access(boot: &Boot, in_own_user_namespace: bool, layers: &mut Layers) -> std::io::Result<()> {
    let writes = boot
        .mounts
        .iter()
        .any(|mount| matches!(mount.kind, MountKind::HostReadWrite { .. } | MountKind::Overlay { upper: Some(_), .. }));
    let mut wanted = CapabilitySet::empty();
    // In a user namespace of its own it has all of them, and they reach no file of the host: none is kept.
    if !in_own_user_namespace {
        wanted |= CapabilitySet::DAC_READ_SEARCH;
        if writes {
            wanted |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN | CapabilitySet::FOWNER | CapabilitySet::FSETID;
        }
    }
    let present = rustix::thread::capabilities(None)?.permitted;
    let kept = wanted & present;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    if kept.is_empty() {
        layers.add(Layer::NoCapabilities);
    } else {
        layers.miss(Layer::NoCapabilities, format!("kept for access to host files: {kept:?}"));
    }
    Ok(())
}
