// Faults from outside: a child process whose system calls fail by rule, whatever it links and whoever makes the call.
// Every call named by a rule is handed to the parent (seccomp's user notification), which refuses it or lets it go on.
// No privileges are needed. What io_uring reads inside the kernel is no system call: refuse io_uring_setup to fail
// reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace spillway::faults {

struct Fault {
  std::string call;             // one of: see parse_fault
  int error = 0;                // the errno it fails with; 0: none, the call is only held up
  uint64_t milliseconds = 0;    // for so long
  std::string path;             // only on a descriptor whose file's name contains this; empty: any
  uint64_t from = 0;            // only pread64 and pwrite64 that reach past this offset
  uint64_t after = 0;           // so many matching calls go through first
  uint64_t times = UINT64_MAX;  // then so many fail
  int argument = -1;            // only where this argument (0 to 5) ...
  uint64_t value = 0;           // ... is this
};

// "CALL=ERRNO[,path=TEXT][,from=BYTES][,after=N][,times=N][,argI=VALUE]", for example
//   io_uring_setup=EPERM                        as seccomp in a container does
//   io_uring_register=ENOMEM,arg1=0             buffers beyond the memlock limit
//   pread64=EIO,path=.gguf,from=1048576         a bad sector
//   pwrite64=ENOSPC,after=3    fallocate=EOPNOTSUPP    mlock=ENOMEM
// or "CALL=SLOW,ms=N[,...]": calls are held up one after another, each for so long, and then go through.
// Throws std::invalid_argument naming what it does not know.
Fault parse_fault(const std::string& text);

struct Outcome {
  bool ran = false;       // false: this machine allows no filters; say so with GTEST_SKIP
  int exit_code = -1;     // 128 + signal when one killed it
  uint64_t injected = 0;  // calls that failed, or were held up
  std::string output;     // stdout and stderr together
};

// Forks: call it while no other thread runs. `body` returns the exit code.
Outcome run(const std::vector<Fault>& faults, const std::function<int()>& body);
Outcome run_command(const std::vector<Fault>& faults, const std::vector<std::string>& command);

}  // namespace spillway::faults
