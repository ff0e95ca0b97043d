//! Files of the cache directory that are truncated while they are mapped into memory: an error, and never a signal.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::io::Errno;

use crate::fixture::{Compression, Image, docker_legacy, file, tar};
use crate::mounted::{Imgmount, Need, have, is_mounted, unmount};

/// Files of the image. Their attributes make the index so large that it is mapped.
const FILES: usize = 3000;

fn image(imgmount: &Imgmount) -> PathBuf {
    let items: Vec<_> = (0..FILES)
        .map(|at| {
            file(format!("a-name-that-takes-some-room-{at:04}"), b"1").xattr("user.a", vec![b'x'; 3000])
        })
        .collect();
    let layers = Image::named("a:1").layer_as("RUN", &items, "", Compression::Plain);
    imgmount.write("image.tar", &tar(&docker_legacy(&[layers])))
}

/// Truncates the index in the cache directory.
fn truncate(imgmount: &Imgmount) {
    let mut cut = 0;
    let mut open = vec![imgmount.cache()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.metadata().unwrap().len() > 8 << 20 {
                OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
                cut += 1;
            }
        }
    }
    assert_eq!(cut, 1, "one index is large");
}

#[test]
fn x16_a_mount_whose_index_is_truncated_gives_eio_and_can_be_unmounted() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = image(&imgmount);
    let mut mounted = imgmount.mount_in_foreground(&image, &[]);
    let attribute = |at: usize| {
        let path = mounted.path().join(format!("a-name-that-takes-some-room-{at:04}"));
        rustix::fs::lgetxattr(path, "user.a", &mut [0; 4000])
    };
    assert_eq!(attribute(7), Ok(3000));
    truncate(&imgmount);
    for at in [7, 8, 2999] {
        assert_eq!(attribute(at), Err(Errno::IO), "{at}");
    }
    assert!(is_mounted(mounted.path()));
    assert!(unmount(mounted.path(), false));
    let end = mounted.server_ends().unwrap();
    assert_eq!((end.code(), end.signal()), (Some(2), None));
    // The index is built again.
    let again = imgmount.mount(&image, &[]);
    assert_eq!(fs::read_dir(again.path()).unwrap().count(), FILES);
}

/// The output waits for its reader while the index is truncated.
#[test]
fn x16_a_command_whose_index_is_truncated_fails_and_says_so() {
    let imgmount = Imgmount::new();
    let image = image(&imgmount);
    imgmount.run(&["ls", image.to_str().unwrap()]).expect(0);
    let mut command = imgmount.command(&["ls", "-lR", image.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1000]).unwrap();
    truncate(&imgmount);
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(2), None), "{text}");
    assert!(text.contains("a file in the cache directory was truncated"), "{text}");
}
