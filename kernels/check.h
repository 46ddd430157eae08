// Errors, told apart by who is to mend them.
//   SPILLWAY_CHECK  our own bug: on in every build, aborts with the place.
//   Error           the world (a flag, a file, a budget, a disk): thrown, caught once in apps/.
// Kept free of {fmt} so that CUDA sources may include it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace spillway {

// The value is the exit code of the command.
enum class ErrorKind : int {
  usage = 2,  // a flag or an input line
  model = 3,  // a model file is missing or malformed
  fit = 4,    // the budgets do not hold what was asked for
  io = 5,     // disk or device
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

[[noreturn]] inline void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "spillway: internal error: %s is false at %s:%d\n", condition, file, line);
  std::abort();
}

}  // namespace spillway

#define SPILLWAY_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::spillway::check_failed(#condition, __FILE__, __LINE__))
