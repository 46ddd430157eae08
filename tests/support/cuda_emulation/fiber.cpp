#include "tests/support/cuda_emulation/fiber.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>

#include "kernels/check.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace spillway::emulation {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr size_t kGuardBytes = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

}  // namespace

// The sides of a switch, as the sanitizers want to hear of them. Inlined, so that TSan's record of calls stays balanced
// on both stacks.
struct Fiber::Switching {
  [[gnu::always_inline]] static void to_fiber([[maybe_unused]] Fiber& f) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&f.scheduler_fake_stack_, f.mapping_ + kGuardBytes, kStackBytes);
#endif
#ifdef __SANITIZE_THREAD__
    f.tsan_scheduler_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f.tsan_fiber_, 0);
#endif
  }
  [[gnu::always_inline]] static void in_fiber([[maybe_unused]] Fiber& f) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f.fake_stack_, &f.scheduler_stack_, &f.scheduler_stack_bytes_);
#endif
  }
  [[gnu::always_inline]] static void to_scheduler([[maybe_unused]] Fiber& f) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&f.fake_stack_, f.scheduler_stack_, f.scheduler_stack_bytes_);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(f.tsan_scheduler_, 0);
#endif
  }
  [[gnu::always_inline]] static void in_scheduler([[maybe_unused]] Fiber& f) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f.scheduler_fake_stack_, nullptr, nullptr);
#endif
  }

  // The bottom of every fiber: one entry after the other, for ever.
  static void run(transfer_t from) {
    Fiber& f = *static_cast<Fiber*>(from.data);
    in_fiber(f);
    f.scheduler_ = from.fctx;
    for (;;) {
      f.entry_(f.argument_);
      f.idle_ = true;
      f.suspend();
    }
  }
};

Fiber::Fiber() {
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  SPILLWAY_CHECK(mapping != MAP_FAILED && mprotect(mapping, kGuardBytes, PROT_NONE) == 0);
  mapping_ = static_cast<std::byte*>(mapping);
}

Fiber::~Fiber() {
#ifdef __SANITIZE_THREAD__
  if (tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
#endif
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Fiber::prepare(void (*entry)(void*), void* argument) {
  entry_ = entry;
  argument_ = argument;
  if (idle_) {
    idle_ = false;
    return;
  }
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(mapping_ + kGuardBytes, kStackBytes);  // an abandoned stack leaves its marks
#endif
#ifdef __SANITIZE_THREAD__
  if (tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
  fake_stack_ = nullptr;
  context_ = make_fcontext(mapping_ + kGuardBytes + kStackBytes, kStackBytes, Switching::run);
}

void Fiber::resume() {
  Switching::to_fiber(*this);
  const transfer_t back = jump_fcontext(context_, this);
  Switching::in_scheduler(*this);
  context_ = back.fctx;
}

void Fiber::suspend() {
  Switching::to_scheduler(*this);
  const transfer_t resumed = jump_fcontext(scheduler_, nullptr);
  Switching::in_fiber(*this);
  scheduler_ = resumed.fctx;
}

}  // namespace spillway::emulation
