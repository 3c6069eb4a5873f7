//! Blocks of code in Markdown.

use std::fs;
use std::path::Path;

pub(crate) struct Document {
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// What is between them.
    pub(crate) prose: String,
}

pub(crate) struct Block {
    /// What stands behind the fence.
    pub(crate) info: String,
    pub(crate) text: String,
    /// File and line.
    pub(crate) at: String,
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn exists(path: &str) -> bool {
    folder().join(path).exists()
}

/// The README, and the pages of the guide.
pub(crate) fn documents() -> impl Iterator<Item = Document> {
    let pages = fs::read_dir(folder().join("docs/guide")).unwrap();
    let names = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> = names.map(|name| format!("docs/guide/{name}")).chain(["README.md".to_owned()]).collect();
    paths.sort_unstable();
    assert!(paths.len() > 10, "{paths:?}");
    paths.into_iter().map(|path| document(&path))
}

fn document(path: &str) -> Document {
    let (mut blocks, mut prose): (Vec<Block>, _) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for (number, line) in read(path).lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        // A block that is indented, has another fence or begins with four blanks would go by untested.
        assert!(!line.trim_start().starts_with("~~~") && !line.contains("````"), "{at}: write three backticks");
        assert!(line.starts_with("```") || !line.trim_start().starts_with("```"), "{at}: don't indent blocks");
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => open = Some(Block { info: info.to_owned(), text: String::new(), at }),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{path}: the last block has no end");
    Document { path: path.to_owned(), blocks, prose }
}
