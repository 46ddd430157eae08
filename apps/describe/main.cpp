// describe bash|zsh|fish|man: a completion, or the man page, on standard output. Run when Spillway is built.
#include <cstdio>
#include <string>

#include "apps/command_line.h"
#include "apps/describe/describe.h"

int main(int argc, char** argv) {
  using namespace spillway;
  const CommandLine line(SPILLWAY_VERSION);
  const std::vector<CommandText> commands = describe(line.app);
  const std::string what = argc == 2 ? argv[1] : "";
  std::string text;
  if (what == "bash") text = bash_completion(commands);
  if (what == "zsh") text = zsh_completion(commands);
  if (what == "fish") text = fish_completion(commands);
  if (what == "man") text = man_page(commands, SPILLWAY_VERSION);
  if (text.empty()) {
    std::fprintf(stderr, "usage: describe bash|zsh|fish|man\n");
    return 2;
  }
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0 ? 0 : 5;
}
