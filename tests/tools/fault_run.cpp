// fault_run FAULT... -- COMMAND...: runs a command whose system calls fail by rule (tests/support/faults.h). Prints
// what it printed and ends with its exit code.
#include <cstdio>
#include <exception>

#include "tests/support/faults.h"

int main(int count, char** words) {
  using namespace spillway::faults;
  std::vector<Fault> faults;
  std::vector<std::string> command;
  bool in_command = false;
  try {
    for (int i = 1; i < count; ++i) {
      const std::string word = words[i];
      if (in_command) {
        command.push_back(word);
      } else if (word == "--") {
        in_command = true;
      } else {
        faults.push_back(parse_fault(word));
      }
    }
    if (command.empty()) {
      std::fprintf(stderr,
                   "usage: fault_run CALL=ERRNO[,path=TEXT][,from=BYTES][,after=N][,times=N]... -- COMMAND...\n");
      return 2;
    }
    const Outcome outcome = run_command(faults, command);
    std::fwrite(outcome.output.data(), 1, outcome.output.size(), stdout);
    if (!outcome.ran) std::fprintf(stderr, "fault_run: this machine allows no system call filters\n");
    return outcome.exit_code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fault_run: %s\n", error.what());
    return 2;
  }
}
