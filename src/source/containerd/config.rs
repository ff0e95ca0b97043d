//! The place of containerd's data on a host: the key `root` of its configuration file.

use std::path::{Path, PathBuf};

use crate::path::escape_path;
use crate::source::Environment;

const CONFIG: &str = "/etc/containerd/config.toml";
const DEFAULT_ROOT: &str = "/var/lib/containerd";
/// Maximum length of the configuration file in bytes; real ones have up to 20 KiB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Returns the data directory of the system's containerd, and the one of the user's rootless containerd.
pub(in crate::source) fn own_places(environment: &Environment) -> Vec<PathBuf> {
    let root = configured_root(&environment.place(CONFIG));
    let system = environment.place(root.as_deref().unwrap_or(DEFAULT_ROOT));
    let rootless = environment.user_data().filter(|_| environment.uid != 0);
    rootless.map(|data| data.join("containerd")).into_iter().chain([system]).collect()
}

/// Returns the absolute path at the key `root`; `None` if there is none, with a warning for a file that
/// cannot be read.
fn configured_root(config: &Path) -> Option<String> {
    let warn = |why: &str| log::warn!("'{}' is ignored: {why}", escape_path(config));
    let metadata = config.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_CONFIG_BYTES {
        warn("not a regular file, or larger than MAX_CONFIG_BYTES (1 MiB)");
        return None;
    }
    let text = std::fs::read_to_string(config).map_err(|cause| warn(&cause.to_string())).ok()?;
    let table = text.parse::<toml::Table>().map_err(|cause| warn(cause.message())).ok()?;
    let root = table.get("root")?.as_str()?;
    root.starts_with('/').then(|| root.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn f35_the_configured_root_is_the_own_place() {
        let host = tempfile::tempdir().unwrap();
        let environment = Environment { root: host.path().to_owned(), ..Environment::default() };
        let places = || own_places(&environment);
        assert_eq!(places(), [host.path().join("var/lib/containerd")]);

        fs::create_dir_all(host.path().join("etc/containerd")).unwrap();
        let config = host.path().join("etc/containerd/config.toml");
        for (text, place) in [
            ("version = 2\nroot = \"/srv/containerd\"\n[grpc]\naddress = \"/run/x\"\n", "srv/containerd"),
            ("version = 3\n[plugins]\nroot = \"/no\"\n", "var/lib/containerd"),
            ("root = \"relative\"\n", "var/lib/containerd"),
            ("root = 3\n", "var/lib/containerd"),
            ("root = \"/unclosed", "var/lib/containerd"),
        ] {
            fs::write(&config, text).unwrap();
            assert_eq!(places(), [host.path().join(place)], "{text}");
        }

        let user = Environment { uid: 1000, home: Some("/home/u".into()), ..environment.clone() };
        assert_eq!(own_places(&user)[0], Path::new("/home/u/.local/share/containerd"));
    }
}
