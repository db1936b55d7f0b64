//! The default scope: the module path of the nearest go.work or go.mod.

use std::fs;
use std::path::Path;

/// The scope of builds outside of any module.
pub const NO_MODULE: &str = "-";

/// The scope for builds in `dir`: `given` if there is one, else found from `dir` upwards. A
/// workspace goes by the module beside its go.work, or the first that it uses.
pub fn resolve(given: Option<&str>, dir: &Path) -> String {
    given.map(str::to_string).or_else(|| find(dir)).unwrap_or_else(|| NO_MODULE.to_string())
}

fn find(dir: &Path) -> Option<String> {
    let mut module = None;
    for dir in dir.ancestors() {
        if let Ok(work) = fs::read_to_string(dir.join("go.work")) {
            return module_of(dir)
                .or_else(|| directive(&work, "use").find_map(|used| module_of(&dir.join(used))))
                .or(module);
        }
        // a workspace further up owns this module, if there is one
        module = module.or_else(|| module_of(dir));
    }
    module
}

fn module_of(dir: &Path) -> Option<String> {
    directive(&fs::read_to_string(dir.join("go.mod")).ok()?, "module").next()
}

/// The arguments of a directive, alone or in a block of parentheses.
fn directive(text: &str, name: &str) -> impl Iterator<Item = String> {
    let mut block = false;
    text.lines().filter_map(move |line| {
        let line = line.split("//").next().unwrap_or_default().trim();
        let argument = if block {
            block = line != ")";
            line
        } else {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', '\t', '(', '"', '`']) {
                return None;
            }
            block = rest.trim() == "(";
            rest.trim()
        };
        let argument = argument.trim_matches(['"', '`']);
        (!argument.is_empty() && argument != "(" && argument != ")").then(|| argument.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("gcp-scope-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_nearest_module() {
        let tree =
            Tree::new("mod", &[("go.mod", "// module no\nmodule example.com/a // x\n\ngo 1.24\n"), ("b/c/x.go", "")]);
        assert_eq!(resolve(None, &tree.0.join("b/c")), "example.com/a");
        assert_eq!(resolve(Some("mine"), &tree.0), "mine");
    }

    #[test]
    fn a_workspace_goes_by_its_own_or_its_first_module() {
        let tree = Tree::new(
            "work",
            &[
                ("go.work", "go 1.24\nuse (\n\t./x // first\n\t./y\n)\n"),
                ("x/go.mod", "module \"example.com/x\"\n"),
                ("y/go.mod", "module example.com/y\n"),
            ],
        );
        assert_eq!(resolve(None, &tree.0.join("y")), "example.com/x");
        fs::write(tree.0.join("go.mod"), "module example.com/root").unwrap();
        assert_eq!(resolve(None, &tree.0.join("y")), "example.com/root");
    }
}
