//! Checks the order of modules: each module uses only modules to its left.
//!
//! ARCHITECTURE.md states the order. Files are parsed, so that every way to write a path is found:
//! grouped and nested imports, `super`, paths in code, in types and in macros. Only items under
//! `#[cfg(test)]` are skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Meta, UseTree};

use super::sources;

/// Modules in groups, the leftmost first. Modules of the first group may use one another.
struct Order(Vec<Vec<String>>);

impl Order {
    /// Reads the block of indented lines that follows the headline `## Order of modules`.
    fn read(page: &str) -> Self {
        let section = page.split("\n## Order of modules\n").nth(1).expect("a section on the order");
        let lines = section.lines().skip_while(|line| !line.starts_with("    "));
        let block: Vec<&str> = lines.take_while(|line| line.starts_with("    ")).collect();
        let groups = block.join(" ");
        Order(groups.split('|').map(|group| group.split_whitespace().map(str::to_owned).collect()).collect())
    }

    fn group(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|group| group.iter().any(|name| name == module))
    }

    /// Whether `user` may name `used`; `None` if one of them has no place.
    fn allows(&self, user: &str, used: &str) -> Option<bool> {
        let (user_group, used_group) = (self.group(user)?, self.group(used)?);
        Some(user == used || used_group < user_group || (used_group == user_group && user_group == 0))
    }
}

/// The names at the crate's root: modules by their own names, and the names that `pub use` re-exports
/// from them.
type Root = BTreeMap<String, String>;

fn names_of_root(text: &str) -> Root {
    let file = syn::parse_file(text).unwrap();
    let mut root = Root::new();
    for item in file.items {
        match item {
            Item::Mod(module) if !is_for_tests(&module.attrs) => {
                root.insert(module.ident.to_string(), module.ident.to_string());
            }
            Item::Use(import) => {
                let mut names = Vec::new();
                flatten(&import.tree, &[], &mut names);
                for Import { path, name } in names {
                    let path: Vec<_> =
                        path.into_iter().skip_while(|part| part == "crate" || part == "self").collect();
                    root.insert(name, path.first().cloned().unwrap_or_default());
                }
            }
            _ => {}
        }
    }
    root
}

/// The path that one branch of a `use` imports, and the name that it gets.
struct Import {
    path: Vec<String>,
    name: String,
}

fn flatten(tree: &UseTree, above: &[String], found: &mut Vec<Import>) {
    let with = |name: String| [above, &[name]].concat();
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &with(path.ident.to_string()), found),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, above, found)),
        UseTree::Name(name) => {
            found.push(Import { path: with(name.ident.to_string()), name: name.ident.to_string() })
        }
        UseTree::Rename(name) => {
            found.push(Import { path: with(name.ident.to_string()), name: name.rename.to_string() })
        }
        UseTree::Glob(_) => found.push(Import { path: with("*".to_owned()), name: "*".to_owned() }),
    }
}

/// True for `#[cfg(test)]`, alone or as one of several conditions that must all hold.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    fn requires_test(meta: &Meta) -> bool {
        match meta {
            Meta::Path(path) => path.is_ident("test"),
            Meta::List(list) if list.path.is_ident("all") => conditions(list).iter().any(requires_test),
            _ => false,
        }
    }
    fn conditions(list: &syn::MetaList) -> Vec<Meta> {
        let parser = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
        list.parse_args_with(parser).map(|found| found.into_iter().collect()).unwrap_or_default()
    }
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => conditions(list).iter().any(requires_test),
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Collects every path of a file that begins at the crate's root, written with `crate`, `self` or `super`.
struct Paths {
    /// The module that contains the current code.
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Paths {
    fn add(&mut self, path: &[String]) {
        let mut at = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in path.iter().skip_while(|part| *part == "crate") {
            match part.as_str() {
                "self" => {}
                "super" => drop(at.pop()),
                name => at.push(name.to_owned()),
            }
        }
        self.found.insert(at);
    }

    /// Adds the paths in the tokens of a macro, which cannot be parsed further.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            // `pub(crate)` is a visibility and uses nothing.
            let follows_pub = at > 0 && matches!(&tokens[at - 1], TokenTree::Ident(word) if word == "pub");
            if let TokenTree::Group(group) = token
                && !follows_pub
            {
                self.add_tokens(group.stream());
            }
            let follows_colon =
                at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(mark) if mark.as_char() == ':');
            if let TokenTree::Ident(word) = token
                && !follows_colon
                && (word == "crate" || word == "super" || word == "self")
            {
                self.add_from(&tokens[at..], &[]);
            }
        }
    }

    /// Adds a path at the front of `tokens`, which may end in a group.
    fn add_from(&mut self, tokens: &[TokenTree], above: &[String]) {
        match tokens {
            [TokenTree::Ident(word), rest @ ..] => {
                let path = [above, &[word.to_string()]].concat();
                match rest {
                    [TokenTree::Punct(one), TokenTree::Punct(two), rest @ ..]
                        if one.as_char() == ':' && two.as_char() == ':' =>
                    {
                        self.add_from(rest, &path);
                    }
                    _ => self.add(&path),
                }
            }
            [TokenTree::Group(group), ..] => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma =
                    |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
                inner.split(is_comma).for_each(|part| self.add_from(part, above));
            }
            _ => self.add(&[above, &["*".to_owned()]].concat()),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        flatten(&item.tree, &[], &mut found);
        found.iter().for_each(|import| self.add(&import.path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts.len() > 1 {
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.add_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

/// Returns the paths in the text of `module`, such as `rootfs::merge`, that break the order.
fn violations(order: &Order, root: &Root, module: &str, text: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    let Some(user) = module.first().cloned() else { return Vec::new() };
    let mut paths = Paths { module, found: BTreeSet::new() };
    paths.visit_file(&syn::parse_file(text).unwrap());
    let mut found = Vec::new();
    for path in paths.found {
        let Some(first) = path.first() else {
            found.push("the crate as a whole".to_owned());
            continue;
        };
        let used = root.get(first).map_or(first, |module| module);
        match order.allows(&user, used) {
            Some(true) => {}
            Some(false) => found.push(path.join("::")),
            None => found.push(format!("{}: no place in the order", path.join("::"))),
        }
    }
    found
}

/// A file of the library, and its module.
struct Source {
    module: String,
    path: PathBuf,
    text: String,
}

/// Follows `mod` from a file. Modules for tests go to `tests`.
fn follow(path: &Path, module: &[String], found: &mut Vec<Source>, tests: &mut Vec<PathBuf>) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let items = syn::parse_file(&text).unwrap().items;
    found.push(Source { module: module.join("::"), path: path.to_owned(), text });
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let folder = match stem {
        "lib" | "main" | "mod" => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    for item in items {
        let Item::Mod(item) = item else { continue };
        if item.content.is_some() || item.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            continue;
        }
        let name = item.ident.to_string();
        let flat = folder.join(format!("{name}.rs"));
        let file = if flat.exists() { flat } else { folder.join(&name).join("mod.rs") };
        let module = [module, &[name]].concat();
        if is_for_tests(&item.attrs) {
            let mut below = Vec::new();
            follow(&file, &module, &mut below, tests);
            tests.extend(below.into_iter().map(|source| source.path));
        } else {
            follow(&file, &module, found, tests);
        }
    }
}

fn stated_order() -> Order {
    Order::read(include_str!("../../../ARCHITECTURE.md"))
}

fn library() -> (Vec<Source>, Vec<PathBuf>) {
    let (mut found, mut tests) = (Vec::new(), Vec::new());
    follow(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"), &[], &mut found, &mut tests);
    (found, tests)
}

#[test]
fn a_module_uses_what_stands_to_its_left() {
    let (sources, _) = library();
    let order = stated_order();
    let root = names_of_root(&sources[0].text);
    let mut found = Vec::new();
    for Source { module, path, text } in sources.iter().filter(|source| !source.module.is_empty()) {
        let broken = violations(&order, &root, module, text);
        found.extend(broken.into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert!(found.is_empty(), "the order in ARCHITECTURE.md is broken:\n{}", found.join("\n"));
}

#[test]
fn the_order_names_every_module_of_the_library_and_no_other() {
    let (sources, _) = library();
    let modules: BTreeSet<&str> = sources
        .iter()
        .map(|source| &*source.module)
        .filter(|name| !name.is_empty() && !name.contains("::"))
        .collect();
    let order = stated_order();
    let named: Vec<&str> = order.0.iter().flatten().map(String::as_str).collect();
    assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), modules);
    assert_eq!(named.len(), modules.len(), "a module stands in the order twice");
}

#[test]
fn every_file_in_src_is_compiled() {
    let (mut found, mut reached) = library();
    follow(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs"), &[], &mut found, &mut reached);
    reached.extend(found.into_iter().map(|source| source.path));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let forgotten: Vec<PathBuf> = sources("src")
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !reached.contains(&root.join(path)))
        .collect();
    assert_eq!(forgotten, Vec::<PathBuf>::new());
}

/// Checks a text against the order `words | low | middle | one two`, with `Tree` re-exported from
/// `middle` at the root.
fn planted(module: &str, text: &str) -> Vec<String> {
    let order = Order::read(
        "\n## Order of modules\n\nText.\n\n    words error | low\n    | middle | one two\n\nText.",
    );
    let root = names_of_root(
        "pub mod words; mod error; mod low; mod middle; mod one; mod two; mod stray;
         pub use middle::{part::Tree as Tree, Other}; #[cfg(test)] mod seed;",
    );
    violations(&order, &root, module, text)
}

#[test]
fn a_planted_violation_is_found_however_it_is_written() {
    for (text, what) in [
        ("use crate::middle::Tree;", "middle::Tree"),
        ("use crate::{error::Error, middle};", "middle"),
        ("use crate::{words::{self, Path}, middle::{part::{Deep, Other}}};", "middle::part::Deep"),
        ("use crate::{one as other};", "one"),
        ("pub(crate) use crate::middle::*;", "middle::*"),
        ("fn f() { crate::middle::go(); }", "middle::go"),
        ("fn f(tree: &crate::middle::Tree) {}", "middle::Tree"),
        ("fn f() { let x: Vec<Option<crate::middle::Tree>> = g(); }", "middle::Tree"),
        ("impl crate::one::Observer for X {}", "one::Observer"),
        ("fn f() { println!(\"{}\", crate::middle::NAME); }", "middle::NAME"),
        ("fn f() { vec![(1, { use crate::{words, middle::go}; })]; }", "middle::go"),
        ("macro_rules! m { () => { $crate::middle::NAME } }", "middle::NAME"),
        ("#[cfg(test)] mod tests { fn f() {} } use crate::middle::go;", "middle::go"),
        ("#[cfg(not(test))] use crate::middle::go;", "middle::go"),
        ("#[cfg(any(test, unix))] use crate::middle::go;", "middle::go"),
        ("use super::super::middle::go;", "middle::go"),
        ("mod inner { use super::super::super::middle::go; }", "middle::go"),
        ("fn f() { super::super::middle::go(); }", "middle::go"),
        ("use crate::Tree;", "Tree"),
        ("use crate::Other as X;", "Other"),
        ("use crate as all;", "the crate as a whole"),
        ("use crate::*;", "*: no place in the order"),
        ("use crate::stray::X;", "stray::X: no place in the order"),
    ] {
        let found = planted("low::part", text);
        assert!(found.iter().any(|found| found == what), "{text}: {found:?}");
    }
}

#[test]
fn what_is_allowed_is_no_violation() {
    for text in [
        "use crate::{words::{self, Path}, error::Error}; use crate::low::other;",
        "use super::other; use super::super::words; use self::inner::X; mod inner { use super::Y; }",
        "use std::{one, middle}; fn f() { middle::go(); self.middle.go(); Self::one(); }",
        "#[cfg(test)] mod tests { use crate::middle::Tree; }",
        "#[cfg(all(test, unix))] use crate::middle::Tree;",
        "struct X; impl X { #[cfg(test)] fn f() { crate::middle::go(); } pub(crate) fn g() {} }",
        "table! { pub(crate) enum X { A } pub(super) fn g() {} }",
        "//! [`crate::middle`]\n/// See crate::middle::Tree.\nfn f() { g(\"crate::middle\"); } // crate::middle",
    ] {
        assert_eq!(planted("low::part", text), [""; 0], "{text}");
    }
}

#[test]
fn only_the_first_group_may_use_itself() {
    assert_eq!(planted("words", "use crate::error::Error;"), [""; 0]);
    assert_eq!(planted("two", "use crate::one::go;"), ["one::go"]);
    assert_eq!(planted("stray", "use crate::words::go;"), ["words::go: no place in the order"]);
}
