//! The command `styxy`.

fn main() -> std::process::ExitCode {
    styxy::cli::run()
}
