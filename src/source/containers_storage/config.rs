//! `storage.conf`: where an engine keeps its store, and which further stores it reads.
//!
//! This module owns the own places of root and of users (rule F34), and which additional stores belong to a
//! store. Source: containers/storage, types/options.go and containers-storage.conf(5).

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Error, Result, Subject};
use crate::source::beneath::Beneath;
use crate::source::environment::Environment;
use crate::source::host::{Host, SYSTEM_STORE, is_same};

/// The places of the system's configuration file; the first that exists is used.
const SYSTEM_CONF: [&str; 2] = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"];
/// The place of a user's configuration file, below the directory for user configuration.
const USER_CONF: &str = "containers/storage.conf";
/// The place of a user's store, below the directory for user data.
const USER_DATA_STORE: &str = "containers/storage";

/// Maximum number of additional stores.
const MAX_IMAGE_STORES: usize = 64;

/// The settings of `storage.conf` that decide where images are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct StorageConf {
    /// The store: `graphroot`.
    graph_root: Option<String>,
    /// The stores of users, with variables: `rootless_storage_path`.
    user_root: Option<String>,
    /// Further stores that are only read: `imagestore` and `additionalimagestores`.
    image_stores: Vec<String>,
}

/// Returns the own places of the engine for the user of `environment`, the preferred one first.
pub(in crate::source) fn own_places(environment: &Environment) -> Vec<PathBuf> {
    let Some(host) = warned(Host::open(&environment.root)) else { return Vec::new() };
    let given = environment.storage_conf.as_deref().and_then(read_given);
    if environment.uid == 0 {
        let conf = given.unwrap_or_else(|| system_conf(&host));
        let root = conf.graph_root.unwrap_or_else(|| format!("/{SYSTEM_STORE}"));
        return vec![environment.place(&root)];
    }
    let name = host.user(environment.uid).map(|user| user.name);
    let home = environment.home.as_ref().map(|home| home.to_string_lossy().into_owned());
    let expand = |text: String| expand(&text, home.as_deref(), name.as_deref(), environment.uid);
    let user = given.or_else(|| read_given(&environment.user_config()?.join(USER_CONF)));
    let by_user = user.and_then(|conf| conf.graph_root.or(conf.user_root));
    let set = by_user.or_else(|| system_conf(&host).user_root).and_then(expand).map(PathBuf::from);
    set.or_else(|| Some(environment.user_data()?.join(USER_DATA_STORE))).into_iter().collect()
}

/// Returns the additional stores of `store`, whose owner is `uid`: those that the configuration of `host`
/// names, if it names `store` too. With `is_own`, the store was found through the configuration. A store or
/// configuration that cannot be read gives a warning, because `store` itself can be read without it.
pub(super) fn image_stores(host: &Host, store: &Beneath, uid: u32, is_own: bool) -> Vec<Beneath> {
    let system = system_conf(host);
    let (root, conf) = if uid == 0 {
        (system.graph_root.clone().unwrap_or_else(|| format!("/{SYSTEM_STORE}")), system)
    } else {
        let Some(user) = host.user(uid) else { return Vec::new() };
        let own = warned(read_conf(host, &format!("{}/.config/{USER_CONF}", user.home))).flatten();
        let set = own.as_ref().and_then(|conf| conf.graph_root.clone().or(conf.user_root.clone()));
        let set = set.or(system.user_root.clone());
        let root = set.and_then(|text| expand(&text, Some(&user.home), Some(&user.name), uid));
        let usual = format!("{}/.local/share/{USER_DATA_STORE}", user.home);
        let conf = own.filter(|conf| !conf.image_stores.is_empty()).unwrap_or(system);
        (root.unwrap_or(usual), conf)
    };
    let is_named = || warned(host.directory(&root)).flatten().is_some_and(|named| is_same(&named, store));
    if !is_own && !is_named() {
        return Vec::new();
    }
    if conf.image_stores.len() > MAX_IMAGE_STORES {
        log::warn!(
            "storage.conf names more than {MAX_IMAGE_STORES} image stores (MAX_IMAGE_STORES); the others are left out"
        );
    }
    let stores = conf.image_stores.iter().take(MAX_IMAGE_STORES);
    let found = stores.filter_map(|path| warned(host.directory(path)).flatten());
    found.filter(|found| !is_same(found, store)).collect()
}

/// Returns the value, or prints the error as a warning.
fn warned<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| log::warn!("{error}")).ok()
}

/// Reads the configuration of the system; without a file, all settings have their defaults.
fn read_system(host: &Host) -> Result<StorageConf> {
    for path in SYSTEM_CONF {
        if let Some(conf) = read_conf(host, path)? {
            return Ok(conf);
        }
    }
    Ok(StorageConf::default())
}

/// Returns the configuration of the system. An unreadable file gives a warning: the usual place is tried.
fn system_conf(host: &Host) -> StorageConf {
    warned(read_system(host)).unwrap_or_default()
}

fn read_conf(host: &Host, path: &str) -> Result<Option<StorageConf>> {
    let what = Subject::File(PathBuf::from(path));
    host.read(path)?.map(|bytes| StorageConf::parse(&what, &bytes)).transpose()
}

/// Reads the file that the user's environment names; `None` with a warning if that is impossible.
fn read_given(path: &Path) -> Option<StorageConf> {
    let read = || read_conf(&Host::open(path.parent()?).ok()?, path.file_name()?.to_str()?).transpose();
    warned(read()?)
}

impl StorageConf {
    fn parse(what: &Subject, bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::malformed(what.clone(), reason);
        let text = std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8".to_owned()))?;
        let table: Table =
            text.parse().map_err(|cause: toml::de::Error| bad(format!("bad TOML: {}", cause.message())))?;
        let Some(storage) = table.get("storage").and_then(Value::as_table) else {
            return Ok(StorageConf::default());
        };
        let text = |key: &str| {
            let value = storage.get(key).and_then(Value::as_str);
            value.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let options = storage.get("options").and_then(Value::as_table);
        let additional = options.and_then(|options| options.get("additionalimagestores")?.as_array());
        // The list may also contain a table, which says that the list extends that of another file.
        let additional = additional.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok(StorageConf {
            graph_root: text("graphroot"),
            user_root: text("rootless_storage_path"),
            image_stores: text("imagestore")
                .into_iter()
                .chain(additional)
                .filter(|path| path.starts_with('/'))
                .collect(),
        })
    }
}

/// Replaces the variables that `storage.conf` may contain: `$HOME`, `$USER` and `$UID`, also in braces.
/// Returns `None` with a warning if another one remains, or if a value is unknown.
fn expand(text: &str, home: Option<&str>, user: Option<&str>, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let mut done = text.to_owned();
    for (name, value) in [("HOME", home), ("USER", user), ("UID", Some(uid.as_str()))] {
        if let Some(value) = value {
            done = done.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        }
    }
    if done.contains('$') || !done.starts_with('/') {
        log::warn!("storage.conf names the store '{}', which cannot be expanded", text.escape_debug());
        return None;
    }
    Some(done)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn environment(root: &Path, uid: u32) -> Environment {
        let (root, home) = (root.to_owned(), Some(root.join("home/ann")));
        Environment { root, uid, home, ..Environment::default() }
    }

    fn places(environment: &Environment) -> Vec<String> {
        let root = environment.root.to_str().unwrap();
        own_places(environment).iter().map(|path| path.to_str().unwrap().replacen(root, "", 1)).collect()
    }

    #[test]
    fn f34_the_own_place_of_root_is_in_storage_conf_or_the_usual_one() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        assert_eq!(places(&environment(root, 0)), ["/var/lib/containers/storage"]);
        write(root, "usr/share/containers/storage.conf", "[storage]\ngraphroot = \"/usr-share\"\n");
        assert_eq!(places(&environment(root, 0)), ["/usr-share"]);
        write(
            root,
            "etc/containers/storage.conf",
            "[storage]\ngraphroot = \"/srv/x\"\nrunroot = \"/run/x\"\n",
        );
        assert_eq!(places(&environment(root, 0)), ["/srv/x"]);
        write(root, "given.conf", "[storage]\ngraphroot = \"/given\"\n");
        let given = Environment { storage_conf: Some(root.join("given.conf")), ..environment(root, 0) };
        assert_eq!(places(&given), ["/given"]);
        write(root, "etc/containers/storage.conf", "garbage");
        assert_eq!(places(&environment(root, 0)), ["/var/lib/containers/storage"]);
    }

    #[test]
    fn f34_the_own_place_of_a_user_is_in_storage_conf_or_below_the_data_directory() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        assert_eq!(places(&environment(root, 7)), ["/home/ann/.local/share/containers/storage"]);
        let data = Environment { data_home: Some(root.join("data")), ..environment(root, 7) };
        assert_eq!(places(&data), ["/data/containers/storage"]);
        let system =
            "[storage]\ngraphroot = \"/not/for/users\"\nrootless_storage_path = \"/srv/$UID/${USER}\"\n";
        write(root, "etc/containers/storage.conf", system);
        write(root, "etc/passwd", "ann:x:7:7::/home/ann:/bin/sh\n");
        assert_eq!(places(&environment(root, 7)), ["/srv/7/ann"]);
        write(root, "home/ann/.config/containers/storage.conf", "[storage]\ngraphroot = \"$HOME/own\"\n");
        assert_eq!(places(&environment(root, 7)), ["/home/ann/own"]);
        write(root, "home/ann/.config/containers/storage.conf", "[storage]\ngraphroot = \"$OTHER/own\"\n");
        assert_eq!(places(&environment(root, 7)), ["/home/ann/.local/share/containers/storage"]);
    }

    #[test]
    fn f34_additional_stores_belong_to_the_store_that_storage_conf_names() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for dir in ["var/lib/containers/storage", "other", "usr/lib/containers/storage", "images"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let conf = "[storage]\nimagestore = \"/images\"\n[storage.options]\nadditionalimagestores = \
            [\"/usr/lib/containers/storage\", \"/missing\", {append=true}, \"/var/lib/containers/storage\"]\n";
        write(root, "etc/containers/storage.conf", conf);
        let host = Host::open(root).unwrap();
        let stores = |place: &str, is_own| -> Vec<String> {
            let store = Beneath::open(&root.join(place)).unwrap();
            let found = image_stores(&host, &store, 0, is_own);
            found.iter().map(|found| found.path().strip_prefix(root).unwrap().display().to_string()).collect()
        };
        assert_eq!(stores("var/lib/containers/storage", false), ["images", "usr/lib/containers/storage"]);
        assert_eq!(stores("other", false), Vec::<String>::new());
        assert_eq!(stores("other", true).len(), 3);
        write(root, "etc/containers/storage.conf", "garbage");
        assert_eq!(stores("var/lib/containers/storage", false), Vec::<String>::new());
    }

    #[test]
    fn f34_additional_stores_of_a_user_are_those_of_the_user_or_of_the_system() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for dir in ["home/ann/.local/share/containers/storage", "shared", "own"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        write(root, "etc/passwd", "ann:x:7:7::/home/ann:/bin/sh\n");
        let conf = |path| format!("[storage.options]\nadditionalimagestores = [\"{path}\"]\n");
        write(root, "etc/containers/storage.conf", &conf("/shared"));
        let host = Host::open(root).unwrap();
        let store = Beneath::open(&root.join("home/ann/.local/share/containers/storage")).unwrap();
        let stores = || image_stores(&host, &store, 7, false);
        assert_eq!(stores()[0].path(), root.join("shared"));
        write(root, "home/ann/.config/containers/storage.conf", &conf("/own"));
        assert_eq!(stores()[0].path(), root.join("own"));
        assert!(image_stores(&host, &store, 8, false).is_empty());
    }
}
