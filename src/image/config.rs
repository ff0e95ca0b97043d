//! The image config: the digests of the uncompressed layers, their history, and the platform.
//!
//! This module owns which history entry belongs to which layer. The run settings of a container are kept
//! unchanged, for display only. Source: OCI image-spec config.md.

use serde_json::Value;

use super::manifest::platform_of;
use super::platform::Platform;
use super::strict_json::{self, Object, malformed};
use crate::digest::Digest;
use crate::error::{Result, Subject};

const CONFIG_FIELDS: [&str; 8] =
    ["created", "author", "architecture", "os", "variant", "config", "rootfs", "history"];
const HISTORY_FIELDS: [&str; 5] = ["created", "author", "created_by", "comment", "empty_layer"];
const RUNTIME_FIELDS: [&str; 9] =
    ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"];

/// An image config.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ImageConfig {
    /// Time of creation as the config writes it (RFC 3339).
    pub created: Option<String>,
    /// Author of the image.
    pub author: Option<String>,
    /// Platform of the image, if the config states operating system and architecture.
    pub platform: Option<Platform>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// Build steps in order, including steps that created no layer.
    pub history: Vec<HistoryEntry>,
    /// Run settings of a container (`Env`, `Cmd` and so on), unchanged; null when absent.
    pub runtime: Value,
}

/// One build step of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// Time of the step as the config writes it (RFC 3339).
    pub created: Option<String>,
    /// Author of the step.
    pub author: Option<String>,
    /// Command of the step.
    pub created_by: Option<String>,
    /// Comment on the step.
    pub comment: Option<String>,
    /// True if the step created no layer.
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Parses a config. `what` names the config in errors.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`] when the config violates its format, or has no layer digests.
    pub(crate) fn parse(what: &Subject, bytes: &[u8]) -> Result<Self> {
        let value = strict_json::parse(what, bytes)?;
        let object = Object::new(what, &value, &CONFIG_FIELDS)?;
        let runtime = object.get("config").cloned().unwrap_or(Value::Null);
        if !runtime.is_null() {
            Object::new(what, &runtime, &RUNTIME_FIELDS)?;
        }
        Ok(ImageConfig {
            created: object.string("created")?.map(str::to_owned),
            author: object.string("author")?.map(str::to_owned),
            platform: platform_of(&object)?,
            diff_ids: diff_ids(what, &object)?,
            history: object
                .array("history")?
                .iter()
                .map(|value| HistoryEntry::parse(what, value))
                .collect::<Result<_>>()?,
            runtime,
        })
    }

    /// Returns the command that created each layer, lowest first. All are `None` unless the history has
    /// exactly one step for each layer, because commands are never guessed.
    #[must_use]
    pub(crate) fn layer_commands(&self) -> Vec<Option<String>> {
        let steps: Vec<_> = self.history.iter().filter(|step| !step.empty_layer).collect();
        if steps.len() != self.diff_ids.len() {
            return vec![None; self.diff_ids.len()];
        }
        steps.iter().map(|step| step.created_by.clone()).collect()
    }
}

impl HistoryEntry {
    fn parse(what: &Subject, value: &Value) -> Result<Self> {
        let object = Object::new(what, value, &HISTORY_FIELDS)?;
        let text = |key| object.string(key).map(|text| text.map(str::to_owned));
        Ok(HistoryEntry {
            created: text("created")?,
            author: text("author")?,
            created_by: text("created_by")?,
            comment: text("comment")?,
            empty_layer: object.bool("empty_layer")?,
        })
    }
}

fn diff_ids(what: &Subject, object: &Object<'_>) -> Result<Vec<Digest>> {
    let rootfs = object.get("rootfs").ok_or_else(|| object.missing("rootfs"))?;
    let rootfs = Object::new(what, rootfs, &["type", "diff_ids"])?;
    if let Some(kind) = rootfs.string("type")?
        && kind != "layers"
    {
        let reason = format!("'rootfs' is of type '{}', not 'layers'", kind.escape_debug());
        return Err(malformed(what, reason));
    }
    rootfs.strings("diff_ids")?.iter().map(|text| text.parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF_ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn config(layers: usize, history: &str) -> ImageConfig {
        let diff_ids = vec![format!("\"{DIFF_ID}\""); layers].join(",");
        let text = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","config":{{"Env":["A=b"]}},
                "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}},"history":{history}}}"#
        );
        ImageConfig::parse(&Subject::Image, text.as_bytes()).unwrap()
    }

    #[test]
    fn layers_get_their_command_past_steps_that_made_none() {
        let config =
            config(2, r#"[{"created_by":"a"},{"created_by":"env","empty_layer":true},{"created_by":"b"}]"#);
        assert_eq!(config.layer_commands(), [Some("a".to_owned()), Some("b".to_owned())]);
        assert_eq!(config.platform.unwrap().to_string(), "linux/arm64");
        assert_eq!(config.runtime["Env"][0], "A=b");
    }

    #[test]
    fn commands_are_never_guessed() {
        assert_eq!(config(2, r#"[{"created_by":"a"}]"#).layer_commands(), [None, None]);
        assert_eq!(config(1, "null").layer_commands(), [None]);
    }

    #[test]
    fn a_config_without_layer_digests_is_refused() {
        for (text, reason) in [
            ("{}", "'rootfs' is missing"),
            (r#"{"rootfS":{"type":"layers+base"}}"#, "'rootfs' is of type 'layers+base'"),
            (r#"{"rootfs":{"diff_ids":["abc"]}}"#, "':' is missing"),
        ] {
            let error = ImageConfig::parse(&Subject::Image, text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn x5_variants_inside_the_runtime_config_are_refused() {
        let text = format!(r#"{{"rootfs":{{"diff_ids":["{DIFF_ID}"]}},"config":{{"env":[],"Env":[]}}}}"#);
        let error = ImageConfig::parse(&Subject::Image, text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("more than one key is 'Env'"), "{error}");
    }
}
