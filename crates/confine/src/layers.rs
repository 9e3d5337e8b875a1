//! The walls that a sandbox asks its host for: which are in force, and which are not and why.

use skerry_control::{Failure, FailureKind, Layer, MissingLayer};

/// What is in force, and what is not and why.
#[derive(Default)]
pub struct Layers {
    pub present: Vec<Layer>,
    pub missing: Vec<MissingLayer>,
}

impl Layers {
    pub fn add(&mut self, layer: Layer) {
        self.present.push(layer);
    }

    /// One that was missed is there after all.
    pub fn find(&mut self, layer: Layer) {
        self.missing.retain(|missing| missing.layer != layer);
        self.add(layer);
    }

    pub fn miss(&mut self, layer: Layer, reason: impl std::fmt::Display) {
        self.missing.push(MissingLayer { layer, reason: reason.to_string() });
    }

    /// A layer that was demanded and is not there is an error that names it and says why; `unknown` is the reason where
    /// nothing is known of it.
    pub fn refuse_missing(&self, required: &[Layer], unknown: &str) -> Result<(), Failure> {
        let Some(layer) = required.iter().find(|layer| !self.present.contains(layer)) else { return Ok(()) };
        let reason = self.missing.iter().find(|missing| missing.layer == *layer);
        let reason = reason.map_or(unknown, |missing| missing.reason.as_str());
        let name = serde_json::to_value(layer).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let message = format!("the layer {name} was required, and is not in force here: {reason}");
        Err(Failure { kind: FailureKind::Unenforceable, message, errno: None })
    }
}
