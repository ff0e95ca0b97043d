//! Tests the parts of the bench that measure nothing: the images that it makes, its verdicts, and its
//! reports.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mounted::Imgmount;

#[path = "../../benches/peers/made/mod.rs"]
mod made;
#[path = "../../benches/peers/report/mod.rs"]
mod report;

use report::goals::{GOALS, Goal, Outcome};
use report::plot::{Line, Panel, Plot, svg};
use report::table::Table;
use report::unit::Unit;
use report::{Case, Figure, Group, Machine, Report, Row, document, stats};

fn machine(cpu: &str) -> Machine {
    Machine {
        cpu: cpu.to_owned(),
        cores: 2,
        memory_bytes: 24 << 30,
        kernel: "6.1".to_owned(),
        system: "Debian".to_owned(),
        inputs_on: "ext4".to_owned(),
    }
}

fn figure(name: &str, unit: Unit, samples: &[f64]) -> Figure {
    Figure::of(name, unit, samples.to_vec()).unwrap()
}

fn row(contender: &str, figures: &[Figure]) -> Row {
    Row { contender: contender.to_owned(), figures: figures.to_vec(), skipped: None }
}

fn case(name: &str, date: &str, groups: Vec<Group>) -> Case {
    Case {
        name: name.to_owned(),
        title: format!("Title of {name}"),
        date: date.to_owned(),
        commit: "abc".to_owned(),
        quick: false,
        notes: vec!["A note.".to_owned()],
        groups,
        plots: Vec::new(),
    }
}

fn group(title: &str, rows: &[Row]) -> Group {
    Group { title: title.to_owned(), rows: rows.to_vec() }
}

fn report_of(cases: Vec<Case>) -> Report {
    let mut report = Report::after(None, machine("fast"), Vec::new());
    for case in cases {
        report.put(case, &[]);
    }
    report
}

#[test]
fn medians_percentiles_and_exponents() {
    assert_eq!(stats::median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(stats::median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(stats::median(&[]), None);
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!([50, 99, 100, 0].map(|p| stats::percentile(&hundred, p)), [50.0, 99.0, 100.0, 1.0].map(Some));
    assert_eq!(stats::percentile(&[7.0], 50), Some(7.0));
    let exponents = stats::exponents(&[(1.0, 5.0), (10.0, 50.0), (100.0, 5000.0), (1000.0, 5000.0)]);
    let rounded: Vec<f64> = exponents.iter().map(|e| (e * 1e6).round() / 1e6).collect();
    assert_eq!(rounded, [1.0, 2.0, 0.0]);
    // Costs are twice as high for twice as many, and then stay the same.
    let steps = [(1.0, 1.0), (5.0, 1.0), (10.0, 2.0), (50.0, 10.0)];
    assert_eq!(stats::steepest(&steps, 10.0).map(|e| (e * 1e3).round()), Some(1000.0));
    assert_eq!(stats::steepest(&steps[..2], 10.0), None);
}

#[test]
fn figures_are_shown_with_three_digits_and_a_unit() {
    let shown = |unit: Unit, values: &[f64]| values.iter().map(|v| unit.show(*v)).collect::<Vec<_>>();
    assert_eq!(
        shown(Unit::Seconds, &[123.4, 1.234, 0.0456, 0.000_78]),
        ["123 s", "1.23 s", "45.6 ms", "780 µs"]
    );
    assert_eq!(shown(Unit::Bytes, &[1_048_576.0, 3_221_225_472.0]), ["1.00 MiB", "3.00 GiB"]);
    assert_eq!(shown(Unit::Number, &[0.987, 12.3]), ["0.99", "12.3"]);
    assert_eq!(Unit::Seconds.show_range(0.001, 0.002), "1.00..2.00 ms");
    assert_eq!(Unit::Seconds.show_range(0.5, 2.0), "500 ms..2.00 s");
}

/// A report in which every goal's figure is `share` of what the goal allows.
fn report_at(share: f64) -> Report {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |place: &report::goals::Place, value: f64, unit: Unit| {
        let i = cases.iter().position(|case| case.name == place.case).unwrap_or_else(|| {
            cases.push(case(place.case, "2026-01-01", Vec::new()));
            cases.len() - 1
        });
        let groups = &mut cases[i].groups;
        let i = groups.iter().position(|group| group.title == place.group).unwrap_or_else(|| {
            groups.push(group(place.group, &[]));
            groups.len() - 1
        });
        let rows = &mut groups[i].rows;
        let i = rows.iter().position(|row| row.contender == place.contender).unwrap_or_else(|| {
            rows.push(row(place.contender, &[]));
            rows.len() - 1
        });
        if rows[i].figure(place.figure).is_none() {
            rows[i].figures.push(figure(place.figure, unit, &[value]));
        }
    };
    for Goal { figure, reference, unit, at_most, .. } in GOALS {
        match reference {
            // Several goals may use the same figure.
            Some(reference) => {
                add(figure, share, *unit);
                add(reference, 1.0 / at_most, *unit);
            }
            None => add(figure, share * at_most, *unit),
        }
    }
    report_of(cases)
}

#[test]
fn goals_are_met_up_to_their_limit_and_not_beyond() {
    for (share, expected) in [(0.99, Outcome::Met), (1.01, Outcome::NotMet)] {
        let others: Vec<_> =
            report_at(share).goals.into_iter().filter(|verdict| verdict.outcome != expected).collect();
        assert!(others.is_empty(), "at {share} of the limit: {others:?}");
    }
    let walk = report_at(0.5).goals.into_iter().find(|verdict| verdict.what == "walk, warm").unwrap();
    assert_eq!(walk.against.as_deref(), Some("unpacked tree"));
    assert!((walk.ratio.unwrap() - 0.5 * 1.15).abs() < 1e-9);
}

#[test]
fn a_goal_without_figures_says_what_is_missing() {
    let outcome = |report: &Report| {
        let verdict = report.goals.iter().find(|verdict| verdict.what == "diff, shared layers").unwrap();
        (verdict.outcome.clone(), verdict.ratio)
    };
    let missing = |why: &str| (Outcome::NotMeasured(why.to_owned()), None);
    assert_eq!(outcome(&report_of(vec![case("walk", "", Vec::new())])), missing("case diff was not run"));
    let ours = row("imgmount", &[figure("wall", Unit::Seconds, &[1.0])]);
    let rows = [ours, Row::skipped("diff -rq", "needs root")];
    let skipped = case("diff", "", vec![group("two versions of the real image", &rows)]);
    assert_eq!(outcome(&report_of(vec![skipped])), missing("diff -rq: needs root"));
}

/// A goal with another name for a row than its case uses would never be measured.
#[test]
fn every_goal_speaks_of_rows_that_some_case_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let mut sources = fs::read_to_string(root.join("trees.rs")).unwrap();
    for entry in fs::read_dir(root.join("cases")).unwrap() {
        sources.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for Goal { figure, reference, .. } in GOALS {
        for place in [Some(figure), reference.as_ref()].into_iter().flatten() {
            for name in [place.case, place.group, place.contender, place.figure] {
                // The measuring code itself names the total time.
                assert!(name == "wall" || sources.contains(&format!("\"{name}\"")), "{name:?} in {place:?}");
            }
        }
    }
}

#[test]
fn cases_that_are_not_run_again_keep_their_figures_and_those_of_another_machine_go() {
    let dates = |report: &Report| {
        report.cases.iter().map(|case| (case.name.clone(), case.date.clone())).collect::<Vec<_>>()
    };
    let pair = |name: &str, date: &str| (name.to_owned(), date.to_owned());
    let old = report_of(vec![case("read", "1", Vec::new()), case("walk", "1", Vec::new())]);
    // Stored and read again, as between two runs.
    let old: Report = serde_json::from_str(&serde_json::to_string(&old).unwrap()).unwrap();
    let mut again = Report::after(Some(old.clone()), machine("fast"), Vec::new());
    again.put(case("walk", "2", Vec::new()), &["walk", "read"]);
    assert_eq!(dates(&again), [pair("walk", "2"), pair("read", "1")]);
    let mut elsewhere = Report::after(Some(old), machine("slow"), Vec::new());
    elsewhere.put(case("walk", "2", Vec::new()), &["walk", "read"]);
    assert_eq!(dates(&elsewhere), [pair("walk", "2")]);
}

#[test]
fn tables_compare_every_contender_with_the_first() {
    let ours = row(
        "imgmount",
        &[figure("wall", Unit::Seconds, &[1.0, 3.0, 2.0]), figure("cpu", Unit::Seconds, &[2.0])],
    );
    let theirs = row("a | b", &[figure("wall", Unit::Seconds, &[4.0])]);
    let table = Table::of_group(&group("walk", &[ours, theirs, Row::skipped("c", "not installed: c")]));
    assert_eq!(
        table.text(),
        "                wall      min..max     cpu  imgmount ÷ this\n    \
             imgmount  2.00 s  1.00..3.00 s  2.00 s  1.00\n    \
             a | b     4.00 s                        0.50\n    \
             c         not installed: c\n"
    );
    assert_eq!(
        table.markdown(),
        "|  | wall | min..max | cpu | imgmount ÷ this |\n\
         | --- | ---: | ---: | ---: | ---: |\n\
         | imgmount | 2.00 s | 1.00..3.00 s | 2.00 s | 1.00 |\n\
         | a \\| b | 4.00 s |  |  | 0.50 |\n\
         | c | not installed: c |\n"
    );
}

#[test]
fn the_document_keeps_what_is_written_by_hand() {
    let text = format!("by hand\n{}\nold\n{}\nby hand too\n", document::BEGIN, document::END);
    let new = document::replace_generated(&text, "new\n").unwrap();
    assert_eq!(new, format!("by hand\n{}\n\nnew\n\n{}\nby hand too\n", document::BEGIN, document::END));
    assert_eq!(document::replace_generated(&new, "new\n").unwrap(), new);
    assert_eq!(document::replace_generated("by hand\n", "new\n"), None);
}

#[test]
fn docs_performance_can_be_written_to_and_its_plots_are_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let text = fs::read_to_string(docs.join("performance.md")).unwrap();
    assert!(document::replace_generated(&text, "new\n").is_some());
    let images = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for image in images.filter(|image| image.ends_with(".svg")) {
        assert!(docs.join(image).is_file(), "{image}");
    }
}

#[test]
fn the_report_tells_goals_figures_notes_and_plots() {
    let mut walk = case("walk", "2026-01-02", vec![group("warm", &[row("imgmount", &[])])]);
    walk.plots.push(plot(vec![(1.0, 1.0), (10.0, 10.0)]));
    let report = report_of(vec![walk]);
    let text = document::text(&report);
    for part in [
        "Machine\n",
        "fast, 2 cores",
        "Goals\n",
        "Title of walk (2026-01-02, commit abc)",
        "  warm\n",
        "  * A note.\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let markdown = document::markdown(&report, "plots");
    for part in [
        "## Goals\n",
        "## Title of walk\n",
        "**warm**",
        "![<growth>](plots/a.svg)",
        "\n- A note.\n",
        "## Machine\n",
    ] {
        assert!(markdown.contains(part), "{part:?} is not in {markdown}");
    }
}

fn plot(points: Vec<(f64, f64)>) -> Plot {
    let line = Line { name: "a & b".to_owned(), points };
    let panels = vec![Panel {
        title: "memory".to_owned(),
        x: "files".to_owned(),
        unit: Unit::Bytes,
        lines: vec![line; 2],
    }];
    Plot { file: "a.svg".to_owned(), title: "<growth>".to_owned(), panels }
}

#[test]
fn a_plot_has_logarithmic_axes_on_white() {
    let mib = 1_048_576.0;
    let text = svg(&plot(vec![(1.0, mib), (10.0, 10.0 * mib), (100.0, 10.0 * mib)]));
    assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && text.ends_with("</svg>\n"));
    assert!(text.contains("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"));
    assert!(text.contains("<title>&lt;growth&gt;</title>") && text.contains(">a &amp; b</text>"));
    // From the lower left corner of the axes to the middle of the upper edge, and along that edge.
    assert!(text.contains("points=\"80.0,255.0 260.0,50.0 440.0,50.0\""), "{text}");
    for tick in [">1<", ">10<", ">100<", ">1.00 MiB<", ">10.0 MiB<"] {
        assert!(text.contains(tick), "{tick} is not in {text}");
    }
    assert_eq!(text.matches('<').count(), text.matches('>').count());
}

/// Makes an image in a directory of the program.
fn make(imgmount: &Imgmount, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> PathBuf {
    let dir = imgmount.dir().join("image");
    write(&dir).unwrap();
    imgmount.run(&["verify".as_ref(), dir.as_os_str()]).expect(0);
    dir
}

fn paths(imgmount: &Imgmount, image: &Path) -> Vec<String> {
    let out = imgmount.run(&["ls".as_ref(), "-R".as_ref(), image.as_os_str()]).expect(0);
    out.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn many_files_are_as_many_as_was_asked_for_and_the_same_every_time() {
    let (one, other) = (Imgmount::new(), Imgmount::new());
    let image = make(&one, |dir| made::many_files(dir, 250));
    let files = paths(&one, &image).into_iter().filter(|path| path.ends_with(".txt")).count();
    assert_eq!(files, 250);
    let index = |image: &Path| fs::read_to_string(image.join("index.json")).unwrap();
    assert_eq!(index(&image), index(&make(&other, |dir| made::many_files(dir, 250))));
}

/// Each of three layers has 200 files. Each layer except the first replaces 20 files of the layer
/// below, and hides 2.
#[test]
fn layers_replace_and_hide_files_of_the_one_below() {
    let imgmount = Imgmount::new();
    let image = make(&imgmount, |dir| made::layered_files(dir, 3, 200));
    assert_eq!(made::layout::layers(&image).unwrap().len(), 3);
    let files = paths(&imgmount, &image).into_iter().filter(|path| path.ends_with(".txt")).count();
    assert_eq!(files, 200 + 2 * (200 - 20 - 2) - 2 * 2);

    let lower = imgmount.dir().join("lower");
    made::layout::select(&image, 0..2, &lower).unwrap();
    imgmount.run(&["verify".as_ref(), lower.as_os_str()]).expect(0);
    assert_eq!(made::layout::layers(&lower).unwrap().len(), 2);
}

#[test]
fn a_sparse_file_is_as_long_as_was_asked_for_and_takes_little() {
    let imgmount = Imgmount::new();
    let image = make(&imgmount, |dir| made::sparse_file(dir, 256));
    let entry = imgmount.run(&["ls".as_ref(), "-R".as_ref(), "--json".as_ref(), image.as_os_str()]).expect(0);
    assert!(entry.text().contains("\"path\":\"/srv/sparse\""), "{}", entry.text());
    assert!(entry.text().contains("\"size\":268435456"), "{}", entry.text());
    // 2 MiB of its 256 MiB are data.
    let stored = made::layout::layers(&image).unwrap()[0].len;
    assert!((600_000..2_000_000).contains(&stored), "{stored}");
}

#[test]
fn large_files_compress_as_a_distribution_does() {
    let imgmount = Imgmount::new();
    let image = make(&imgmount, |dir| made::dense_file(dir, 8));
    let stored = made::layout::layers(&image).unwrap()[0].len;
    let percent = stored * 100 / (8 << 20);
    assert!((35..=45).contains(&percent), "{percent} %");
}
