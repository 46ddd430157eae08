// What the programs here share: what is thrown becomes one line on stderr and an exit code (kernels/check.h).
#pragma once

#include <cstdio>
#include <exception>

#include "kernels/check.h"

namespace spillway {

inline int run_tool(const char* name, int (*tool)(int argc, char** argv), int argc, char** argv) {
  try {
    return tool(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return static_cast<int>(ErrorKind::model);
  }
}

}  // namespace spillway
