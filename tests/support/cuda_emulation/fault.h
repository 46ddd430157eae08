// Fault: a kernel or its caller did what real hardware would punish with a wrong number, now and then.
#pragma once

#include <stdexcept>
#include <string>

namespace spillway::emulation {

class Fault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] inline void fault(const std::string& what) { throw Fault("emulated CUDA: " + what); }

}  // namespace spillway::emulation
