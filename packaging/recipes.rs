//! docs/recipes.md as a man page. It reads as much Markdown as that page has: headings, paragraphs, a list, code.

use std::{fs, path::Path};

use pulldown_cmark::{Event, HeadingLevel, Parser, Tag, TagEnd};

use super::{beginning, escaped};

const SEE_ALSO: &str = ".SH SEE ALSO
.BR styxy (1),
.BR styxy\\-allocate (1),
.BR styxy\\-env (1),
.BR styxy\\-port (1),
.BR styxy\\-run (1)
";

/// The page: the name of the file, and what it says.
pub fn page() -> (String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let text = fs::read_to_string(file).expect("the recipes are beside the code");
    let mut page = beginning("styxy-recipes", 7);
    page +=
        ".SH NAME\nstyxy\\-recipes \\- leased ports in the files of the tools that people use\n";
    for event in Parser::new(&text) {
        add(&mut page, event);
    }
    ("styxy-recipes.7".to_owned(), page + SEE_ALSO)
}

/// What begins a paragraph: nothing after a heading, which has begun one.
fn gap(page: &str) -> &'static str {
    let last = page.lines().next_back().unwrap_or_default();
    if last.starts_with(".S") { "" } else { ".PP\n" }
}

fn add(page: &mut String, event: Event<'_>) {
    match event {
        Event::Start(Tag::Heading { level, .. }) => {
            page.push_str(if level == HeadingLevel::H1 { ".SH " } else { ".SS " });
        }
        Event::Start(Tag::Paragraph) => page.push_str(gap(page)),
        Event::Start(Tag::Item) => page.push_str(".IP \\(bu 2\n"),
        Event::Start(Tag::CodeBlock(_)) => {
            page.push_str(gap(page));
            page.push_str(".EX\n");
        }
        Event::End(TagEnd::CodeBlock) => page.push_str(".EE\n"),
        Event::Start(Tag::Emphasis) => page.push_str("\\fI"),
        Event::End(TagEnd::Emphasis) => page.push_str("\\fR"),
        Event::Code(text) => page.extend(["\\fB", &escaped(&text), "\\fR"]),
        Event::Text(text) => {
            // The title is the name of the page already.
            let text = match page.ends_with(".SH ") {
                true if &*text == "Recipes" => "DESCRIPTION".to_owned(),
                true => text.to_uppercase(),
                false => text.into_string(),
            };
            for line in text.split_inclusive('\n') {
                // troff takes a line with one of these in front for a request.
                if page.ends_with('\n') && line.starts_with(['.', '\'']) {
                    page.push_str("\\&");
                }
                *page += &escaped(line);
            }
        }
        Event::SoftBreak | Event::End(TagEnd::Heading(_) | TagEnd::Paragraph | TagEnd::Item) => {
            page.push('\n');
        }
        Event::Start(Tag::List(None) | Tag::Link { .. })
        | Event::End(TagEnd::List(_) | TagEnd::Link) => {}
        other => unimplemented!("{other:?} in docs/recipes.md"),
    }
}
