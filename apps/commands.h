// The commands: each adds itself to the command line and returns what to run when it is the one given.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace spillway {

// Returns the exit code.
using Command = std::function<int()>;

Command add_generate(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_batch(CLI::App& app);
Command add_score(CLI::App& app);
Command add_plan(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_quality(CLI::App& app);
Command add_calibrate(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_doctor(CLI::App& app);
Command add_completion(CLI::App& app);

}  // namespace spillway
