// Fault: a kernel or its caller did what real hardware would punish with a wrong number, now and then.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

namespace spillway::emulation {

class Fault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] inline void fault(const std::string& what) { throw Fault("emulated CUDA: " + what); }

// While an exception is under way, what it tears down would complain as well, from destructors: that would end the
// process, and the first fault's words would be lost.
inline bool unwinding() { return std::uncaught_exceptions() > 0; }
inline void fault_unless_unwinding(const std::string& what) {
  if (!unwinding()) fault(what);
}

}  // namespace spillway::emulation
