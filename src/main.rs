//! The command line program `mistral`.

mod cli;

fn main() -> std::process::ExitCode {
    quiet_drivers();
    cli::main()
}

/// Vulkan's loader looks for a display, which is not needed, and the Wayland library complains on stderr
/// where there is no session; a path that leads nowhere keeps it quiet.
fn quiet_drivers() {
    if cfg!(unix) && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing that the program does, so no other thread reads the environment.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/dev/null") };
    }
}
