//! Mirrors through real registries: registries.conf of podman, and hosts.toml of containerd.

use super::real::{have_registry, write_layout};
use super::*;
use crate::engines;
use crate::mounted::is_root;

/// The registry and its mirror. Both have the image `team/app:1`.
struct Mirrored {
    imgmount: Imgmount,
    origin: engines::Registry,
    mirror: engines::Registry,
    /// How many requests were seen so far, at the registry and at its mirror.
    seen: [usize; 2],
}

impl Mirrored {
    fn new() -> Self {
        let imgmount = Imgmount::new();
        write_layout(&imgmount);
        let start = |name: &str| {
            let registry = engines::Registry::named(&imgmount, name, "", "");
            registry.push(&imgmount, "oci:layout:1", "team/app:1", &[]);
            registry
        };
        let (origin, mirror) = (start("origin"), start("mirror"));
        let mut new = Mirrored { imgmount, origin, mirror, seen: [0; 2] };
        new.requests();
        new
    }

    /// Returns the requests since the last call, at the registry and at its mirror.
    fn requests(&mut self) -> [Vec<String>; 2] {
        let mut all = [self.origin.requests(), self.mirror.requests()];
        for (requests, seen) in all.iter_mut().zip(&mut self.seen) {
            let new = requests.split_off(*seen);
            *seen += new.len();
            // The first request finds out whether the host speaks TLS.
            *requests = new.into_iter().filter(|request| !request.starts_with("GET /v2/ ")).collect();
        }
        all
    }

    fn configure(&self, text: &str) {
        let text = text.replace("ORIGIN", &self.origin.host()).replace("MIRROR", &self.mirror.host());
        self.imgmount.write("registries.conf", text.as_bytes());
    }

    fn list(&self, name: &str) -> Run {
        let reference = format!("docker://{name}");
        let mut list = command(&self.imgmount, &["ls", "-R", "--net-timeout", "5s", &reference]);
        // Everything is requested anew.
        let _ = fs::remove_dir_all(self.imgmount.cache());
        run(list.env("CONTAINERS_REGISTRIES_CONF", self.imgmount.dir().join("registries.conf")))
    }
}

#[test]
fn r2_a_mirror_of_registries_conf_is_asked_first_and_the_registry_if_it_is_down() {
    if !have_registry(&[]) {
        return;
    }
    let mut place = Mirrored::new();
    let name = format!("{}/team/app:1", place.origin.host());
    place.configure("[[registry]]\nlocation = \"ORIGIN\"\n[[registry.mirror]]\nlocation = \"MIRROR\"\n");
    place.list(&name).expect(0);
    let [origin, mirror] = place.requests();
    assert_eq!((origin.len(), count(&mirror, "/team/app/manifests/1 200")), (0, 1), "{origin:?}");
    assert!(count(&mirror, "/blobs/") >= 3, "{mirror:?}");

    // The registry says what a tag means, and the mirror serves all else.
    for by_digest_only in [
        "location = \"ORIGIN\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"MIRROR\"",
        "location = \"ORIGIN\"\n[[registry.mirror]]\nlocation = \"MIRROR\"\npull-from-mirror = \"digest-only\"",
    ] {
        place.configure(&format!("[[registry]]\n{by_digest_only}\n"));
        place.list(&name).expect(0);
        let [origin, mirror] = place.requests();
        assert_eq!((origin.len(), count(&origin, "/manifests/1 200")), (1, 1), "{origin:?}");
        assert_eq!(mirror.len(), count(&mirror, "/blobs/"), "{mirror:?}");
        let digest = digest_of(&place.imgmount);
        place.list(&format!("{}/team/app@{digest}", place.origin.host())).expect(0);
        let [origin, mirror] = place.requests();
        assert_eq!((origin.len(), count(&mirror, &format!("/manifests/{digest} 200"))), (0, 1), "{origin:?}");
    }

    // A prefix that leads elsewhere.
    place.configure("[[registry]]\nprefix = \"example.com/x\"\nlocation = \"MIRROR/team\"\n");
    place.list("example.com/x/app:1").expect(0);
    let [origin, mirror] = place.requests();
    assert_eq!((origin.len(), count(&mirror, "/team/app/manifests/1 200")), (0, 1));

    // A mirror that is down.
    place.configure("[[registry]]\nlocation = \"ORIGIN\"\n[[registry.mirror]]\nlocation = \"MIRROR\"\n");
    place.mirror.stop();
    place.list(&name).expect(0);
    assert_eq!(count(&place.requests()[0], "/team/app/manifests/1 200"), 1);

    place.configure("[[registry]]\nlocation = \"ORIGIN\"\nblocked = true\n");
    place.list(&name).expect(2).says(&format!("registries.conf blocks '{}'", place.origin.host()));
    assert!(place.requests()[0].is_empty());
}

/// Returns the digest of the manifest, which the cache directory has for the tag.
fn digest_of(imgmount: &Imgmount) -> String {
    let tags = fs::read_dir(imgmount.cache().join("refs")).unwrap();
    let tag = fs::read(tags.map(|tag| tag.unwrap().path()).next().unwrap()).unwrap();
    let tag: serde_json::Value = serde_json::from_slice(&tag).unwrap();
    tag["digest"].as_str().unwrap().to_owned()
}

#[test]
fn r2_mirrors_of_hosts_toml_serve_what_they_may() {
    let needs = [Need::Root, Need::Program("containerd"), Need::Program("unshare")];
    if !have_registry(&needs) || !is_root() {
        return;
    }
    let mut place = Mirrored::new();
    let host = place.origin.host();
    let directory = place.imgmount.dir().join("containerd/certs.d").join(&host);
    fs::create_dir_all(&directory).unwrap();
    // A mount namespace in which /etc/containerd is the directory of this test.
    let list = |place: &Mirrored, settings: &str| {
        let text = settings.replace("ORIGIN", &host).replace("MIRROR", &place.mirror.host());
        fs::write(directory.join("hosts.toml"), text).unwrap();
        let _ = fs::remove_dir_all(place.imgmount.cache());
        let own = command(&place.imgmount, &[] as &[&str]);
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private", "sh", "-c"]);
        inside.arg("mount --bind containerd /etc/containerd && exec \"$@\"").arg("sh").arg(own.get_program());
        inside.args(["ls", "-R", "-vv", "--net-timeout", "5s", &format!("docker://{host}/team/app:1")]);
        inside.current_dir(place.imgmount.dir());
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        run(&mut inside)
    };
    let server = "server = \"http://ORIGIN\"\n";
    list(&place, &format!("{server}[host.\"http://MIRROR\"]\ncapabilities = [\"pull\", \"resolve\"]\n"))
        .expect(0);
    let [origin, mirror] = place.requests();
    let resolved = format!("GET /v2/team/app/manifests/1?ns={} 200", host.replace(':', "%3A"));
    assert_eq!((origin.len(), count(&mirror, &resolved)), (0, 1), "{mirror:?}");

    // Without `resolve`, the registry says what a tag means. A header can be a password.
    let pulls = "[host.\"http://MIRROR\"]\ncapabilities = [\"pull\"]\nheader = {x-key = \"secret-key\"}\n";
    let listed = list(&place, &format!("{server}{pulls}")).expect(0);
    assert!(listed.stderr.contains("GET http://") && !listed.stderr.contains("secret"), "{}", listed.stderr);
    let [origin, mirror] = place.requests();
    assert_eq!((origin.len(), count(&origin, "/manifests/1 200")), (1, 1), "{origin:?}");
    assert_eq!(mirror.len(), count(&mirror, "/blobs/"), "{mirror:?}");

    list(&place, &format!("{server}[host.\"http://MIRROR\"]\ncapabilities = [\"push\"]\n")).expect(0);
    assert!(place.requests()[1].is_empty());

    place.mirror.stop();
    list(&place, &format!("{server}[host.\"http://MIRROR\"]\n")).expect(0);
    assert_eq!(count(&place.requests()[0], "/manifests/1 200"), 1);
}
