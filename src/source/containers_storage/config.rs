//! `storage.conf`: where an engine keeps its store, and which further stores it reads.
//!
//! This module owns the default locations of root and of users (rule F34), and which additional stores belong to
//! a store. Source: containers/storage, types/options.go and containers-storage.conf(5).

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

/// The configurations that count for a user.
#[derive(Debug, Default)]
struct Configured {
    /// The user's own; root has none.
    own: Option<StorageConf>,
    system: StorageConf,
}

impl Configured {
    /// Reads the configurations that count for the user of `environment` on `host`.
    fn of(host: &Host, environment: &Environment) -> Self {
        let given = environment.storage_conf.as_deref().and_then(read_given);
        match given {
            Some(system) if environment.uid == 0 => Configured { own: None, system },
            Some(own) => Configured { own: Some(own), system: StorageConf::default() },
            None if environment.uid == 0 => Configured { own: None, system: system_conf(host) },
            None => {
                let own = environment.user_config().and_then(|config| read_given(&config.join(USER_CONF)));
                Configured { own, system: system_conf(host) }
            }
        }
    }

    /// Returns the store of root.
    fn system_root(&self) -> String {
        self.system.graph_root.clone().unwrap_or_else(|| format!("/{SYSTEM_STORE}"))
    }

    /// Returns the store of a user, with variables, if it is configured.
    fn user_root(&self) -> Option<String> {
        let own = self.own.as_ref().and_then(|own| own.graph_root.clone().or(own.user_root.clone()));
        own.or(self.system.user_root.clone())
    }

    /// Returns the additional stores.
    fn image_stores(&self) -> &[String] {
        let own = self.own.as_ref().map(|own| own.image_stores.as_slice());
        own.filter(|stores| !stores.is_empty()).unwrap_or(&self.system.image_stores)
    }
}

/// Returns the default locations of the engine for the user of `environment`, the preferred one first.
pub(in crate::source) fn own_places(environment: &Environment) -> Vec<PathBuf> {
    let Some(host) = warned(Host::open(&environment.root)) else { return Vec::new() };
    let configured = Configured::of(&host, environment);
    if environment.uid == 0 {
        return vec![environment.place(&configured.system_root())];
    }
    let name = host.user(environment.uid).map(|user| user.name);
    let home = environment.home.as_ref().map(|home| home.to_string_lossy().into_owned());
    let expand = |text: String| expand(&text, home.as_deref(), name.as_deref(), environment.uid);
    let set = configured.user_root().and_then(expand).map(PathBuf::from);
    set.or_else(|| Some(environment.user_data()?.join(USER_DATA_STORE))).into_iter().collect()
}

/// Returns the additional stores of `store`, the default location of `environment` on `host`. A store or
/// configuration that cannot be read gives a warning, because `store` itself can be read without it. The same
/// applies to [`stores_named_with`].
pub(super) fn stores_of_own_place(host: &Host, store: &Beneath, environment: &Environment) -> Vec<Beneath> {
    open_stores(host, store, &Configured::of(host, environment))
}

/// Returns the additional stores of `store`, whose owner is `uid`: those that the configuration of `host`
/// names, if it names `store` too.
pub(super) fn stores_named_with(host: &Host, store: &Beneath, uid: u32) -> Vec<Beneath> {
    let mut configured = Configured { own: None, system: system_conf(host) };
    let root = if uid == 0 {
        configured.system_root()
    } else {
        let Some(user) = host.user(uid) else { return Vec::new() };
        configured.own = warned(read_conf(host, &format!("{}/.config/{USER_CONF}", user.home))).flatten();
        let expand = |text: String| expand(&text, Some(&user.home), Some(&user.name), uid);
        let usual = || format!("{}/.local/share/{USER_DATA_STORE}", user.home);
        configured.user_root().and_then(expand).unwrap_or_else(usual)
    };
    let named = warned(host.directory(&root)).flatten();
    if named.is_none_or(|named| !is_same(&named, store)) {
        return Vec::new();
    }
    open_stores(host, store, &configured)
}

fn open_stores(host: &Host, store: &Beneath, configured: &Configured) -> Vec<Beneath> {
    let paths = configured.image_stores();
    if paths.len() > MAX_IMAGE_STORES {
        log::warn!(
            "storage.conf names more than {MAX_IMAGE_STORES} image stores (MAX_IMAGE_STORES); the others are left out"
        );
    }
    let found = paths.iter().take(MAX_IMAGE_STORES).filter_map(|path| warned(host.directory(path)).flatten());
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
    let what = Subject::File(host.place(path));
    host.read(path)?.map(|bytes| StorageConf::parse(&what, &bytes)).transpose()
}

/// Reads a file of this host that the user's environment names: links are followed. `None` if there is no such
/// file, and with a warning if it cannot be read.
fn read_given(path: &Path) -> Option<StorageConf> {
    let this_host = warned(Host::open(Path::new("/")))?;
    warned(read_conf(&this_host, std::path::absolute(path).ok()?.to_str()?)).flatten()
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
        log::warn!(
            "storage.conf: the store '{}' is ignored: not an absolute path, or a variable without a value",
            text.escape_debug()
        );
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
        let names = |found: Vec<Beneath>| -> Vec<String> {
            found.iter().map(|found| found.path().strip_prefix(root).unwrap().display().to_string()).collect()
        };
        let own = Beneath::open(&root.join("var/lib/containers/storage")).unwrap();
        let other = Beneath::open(&root.join("other")).unwrap();
        assert_eq!(names(stores_named_with(&host, &own, 0)), ["images", "usr/lib/containers/storage"]);
        assert_eq!(names(stores_named_with(&host, &other, 0)), Vec::<String>::new());
        // Where the path is left out, the configuration named the store.
        assert_eq!(names(stores_of_own_place(&host, &other, &environment(root, 0))).len(), 3);
        write(root, "given.conf", "[storage.options]\nadditionalimagestores = [\"/images\"]\n");
        std::os::unix::fs::symlink(root.join("given.conf"), root.join("link.conf")).unwrap();
        for uid in [0, 7] {
            let given = Environment { storage_conf: Some(root.join("link.conf")), ..environment(root, uid) };
            assert_eq!(names(stores_of_own_place(&host, &other, &given)), ["images"]);
        }
        write(root, "etc/containers/storage.conf", "garbage");
        assert_eq!(names(stores_named_with(&host, &own, 0)), Vec::<String>::new());
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
        let stores = || stores_named_with(&host, &store, 7);
        assert_eq!(stores()[0].path(), root.join("shared"));
        write(root, "home/ann/.config/containers/storage.conf", &conf("/own"));
        assert_eq!(stores()[0].path(), root.join("own"));
        assert!(stores_named_with(&host, &store, 8).is_empty());
    }
}
