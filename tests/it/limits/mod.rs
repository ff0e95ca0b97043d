//! Tests `--limit`: an image at a limit is read, an image past it is refused by an error that names the limit.

mod each;
mod hostile;
mod layer;
mod measure;
mod sweep;

use std::path::PathBuf;

use crate::fixture::{Image, docker_legacy, file, tar};
use crate::mounted::{Imgmount, Run, run};

/// Writes an image of one layer with three files.
fn three_files(imgmount: &Imgmount) -> PathBuf {
    let layer = [file("a", b"1"), file("b", b"2"), file("c", b"3")];
    imgmount.write("three.tar", &tar(&docker_legacy(&[Image::named("a:1").layer("COPY", &layer)])))
}

fn ls(imgmount: &Imgmount, image: &PathBuf, limits: &[&str]) -> Run {
    let options = limits.iter().flat_map(|limit| ["--limit", limit]);
    run(imgmount.command(&["ls"]).args(options).arg(image))
}

fn indexes(imgmount: &Imgmount) -> usize {
    let names = std::fs::read_dir(imgmount.cache()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(".idx")).count()
}

#[test]
fn c48_an_error_names_the_limit_and_the_option_that_raises_it() {
    let imgmount = Imgmount::new();
    let image = three_files(&imgmount);
    ls(&imgmount, &image, &["entries=3"]).expect(0);
    ls(&imgmount, &image, &["entries=2"])
        .expect(2)
        .says("3 exceeds the limit entries (2)")
        .says("entry 'c' at offset 2048")
        .says("hint: if you trust the image, --limit entries=VALUE raises the limit");
    ls(&imgmount, &image, &["entries=2", "entries=3"]).expect(0);
    ls(&imgmount, &image, &["entires=2"]).expect(2).says("'entires' is not a limit; use one of entries");
}

/// An index that was stored under a higher limit must not be used under a lower one, nor the other way round.
#[test]
fn c48_a_lower_limit_holds_for_what_is_stored() {
    let imgmount = Imgmount::new();
    let image = three_files(&imgmount);
    ls(&imgmount, &image, &[]).expect(0);
    let stored = indexes(&imgmount);
    assert_ne!(stored, 0);
    ls(&imgmount, &image, &["entries=2"]).expect(2).says("exceeds the limit entries");
    assert_eq!(indexes(&imgmount), stored, "a layer past a limit is not stored");
    ls(&imgmount, &image, &["entries=3"]).expect(0);
    assert_eq!(indexes(&imgmount), 2 * stored);
    ls(&imgmount, &image, &["members=1M", "answer-bytes=9"]).expect(0);
    assert_eq!(indexes(&imgmount), 2 * stored, "no index depends on these limits");
    imgmount.run(&["cache", "clear"]).expect(0).says("");
    assert_eq!(indexes(&imgmount), 0, "indexes of every limit are removed");
}
