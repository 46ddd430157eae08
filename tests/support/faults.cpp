#include "tests/support/faults.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace spillway::faults {
namespace {

struct Named {
  std::string_view name;
  int number;
};

constexpr Named kCalls[] = {{"io_uring_setup", SYS_io_uring_setup},
                            {"io_uring_register", SYS_io_uring_register},
                            {"io_uring_enter", SYS_io_uring_enter},
                            {"pread64", SYS_pread64},
                            {"pwrite64", SYS_pwrite64},
                            {"read", SYS_read},
                            {"write", SYS_write},
                            {"openat", SYS_openat},
                            {"fallocate", SYS_fallocate},
                            {"ftruncate", SYS_ftruncate},
                            {"fsync", SYS_fsync},
                            {"rename", SYS_rename},
                            {"mmap", SYS_mmap},
                            {"mlock", SYS_mlock},
                            {"mlock2", SYS_mlock2},
                            {"sched_setaffinity", SYS_sched_setaffinity}};

constexpr Named kErrors[] = {
    {"EPERM", EPERM},   {"EINTR", EINTR},   {"EIO", EIO},       {"EAGAIN", EAGAIN}, {"ENOMEM", ENOMEM},
    {"EACCES", EACCES}, {"EINVAL", EINVAL}, {"ENOSPC", ENOSPC}, {"ENOSYS", ENOSYS}, {"EOPNOTSUPP", EOPNOTSUPP},
    {"EDQUOT", EDQUOT}, {"EMFILE", EMFILE}, {"EISDIR", EISDIR}, {"EROFS", EROFS}};

int number_of(std::span<const Named> names, const std::string& name) {
  for (const Named& named : names) {
    if (named.name == name) return named.number;
  }
  throw std::invalid_argument("fault: unknown name: " + name);
}

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// Installs the filter on this thread; the descriptor on which its calls are told, or -1.
int install(const std::vector<Fault>& faults) {
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (const Fault& fault : faults) {
    const auto number = static_cast<uint32_t>(number_of(kCalls, fault.call));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter));
}

struct ControlSpace {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> bytes{};
};

void send_descriptor(int socket, int descriptor) {
  char dummy = 0;
  iovec part{&dummy, 1};
  ControlSpace control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  }
  if (::sendmsg(socket, &message, 0) != 1) ::_exit(126);
}

int receive_descriptor(int socket) {
  char dummy = 0;
  iovec part{&dummy, 1};
  ControlSpace control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return -1;
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(header), sizeof(int));
  return descriptor;
}

std::string file_of(uint32_t process, uint64_t descriptor) {
  char name[4096];
  const std::string link = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(descriptor);
  const ssize_t length = ::readlink(link.c_str(), name, sizeof name);
  return length < 0 ? std::string() : std::string(name, static_cast<size_t>(length));
}

bool matches(const Fault& fault, const seccomp_notif& told) {
  const seccomp_data& call = told.data;
  if (call.nr != number_of(kCalls, fault.call)) return false;
  if (fault.argument >= 0 && call.args[fault.argument] != fault.value) return false;
  if (fault.from > 0 && call.args[3] + call.args[2] <= fault.from) return false;
  return fault.path.empty() || file_of(told.pid, call.args[0]).find(fault.path) != std::string::npos;
}

// The parent's side: decides every call that is told, gathers what the child prints, until it is gone.
class Supervisor {
 public:
  Supervisor(const std::vector<Fault>& faults, int listener, int output)
      : faults_(faults), seen_(faults.size()), listener_(listener), output_(output) {}
  ~Supervisor() {
    ::close(listener_);
    ::close(output_);
  }

  void watch(Outcome& outcome) {
    while (listener_ >= 0 || output_ >= 0) {
      pollfd sources[] = {{listener_, POLLIN, 0}, {output_, POLLIN, 0}};
      if (::poll(sources, 2, -1) < 0) continue;
      if (sources[1].revents != 0) drain(outcome.output);
      if ((sources[0].revents & POLLIN) != 0) {
        decide(outcome);
      } else if (sources[0].revents != 0) {
        drop(listener_);
      }
    }
  }

 private:
  static void drop(int& descriptor) {
    ::close(descriptor);
    descriptor = -1;
  }

  void drain(std::string& text) {
    char part[4096];
    const ssize_t got = ::read(output_, part, sizeof part);
    if (got > 0) text.append(part, static_cast<size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR)) drop(output_);
  }

  void decide(Outcome& outcome) {
    seccomp_notif told{};
    if (::ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, &told) != 0) return;  // the caller has died meanwhile
    seccomp_notif_resp answer{};
    answer.id = told.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    for (size_t i = 0; i < faults_.size(); ++i) {
      if (!matches(faults_[i], told)) continue;
      const uint64_t nth = seen_[i]++;
      if (nth < faults_[i].after || nth - faults_[i].after >= faults_[i].times) continue;
      ++outcome.injected;
      if (faults_[i].error == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(faults_[i].milliseconds));
        break;
      }
      answer.flags = 0;
      answer.error = -faults_[i].error;
      break;
    }
    ::ioctl(listener_, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }

  const std::vector<Fault>& faults_;
  std::vector<uint64_t> seen_;
  int listener_;
  int output_;
};

[[noreturn]] void be_child(const std::vector<Fault>& faults, int socket, int output, const std::function<int()>& body) {
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::close(output);
  const int listener = faults.empty() ? -1 : install(faults);
  send_descriptor(socket, listener);
  ::close(socket);
  if (listener >= 0) ::close(listener);
  if (listener < 0 && !faults.empty()) ::_exit(126);
  int code = 1;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
  std::fflush(nullptr);
  ::_exit(code);
}

}  // namespace

Fault parse_fault(const std::string& text) {
  Fault fault;
  bool first = true;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    const size_t equals = part.find('=');
    if (equals == std::string::npos) throw std::invalid_argument("fault: no '=' in: " + part);
    const std::string name = part.substr(0, equals), value = part.substr(equals + 1);
    if (first) {
      number_of(kCalls, name);
      fault.call = name;
      if (value != "SLOW") fault.error = number_of(kErrors, value);
    } else if (name == "ms" && fault.error == 0) {
      fault.milliseconds = std::stoull(value, nullptr, 0);
    } else if (name == "path") {
      fault.path = value;
    } else if (name == "from") {
      fault.from = std::stoull(value, nullptr, 0);
    } else if (name == "after") {
      fault.after = std::stoull(value, nullptr, 0);
    } else if (name == "times") {
      fault.times = std::stoull(value, nullptr, 0);
    } else if (name.size() == 4 && name.starts_with("arg") && name[3] >= '0' && name[3] <= '5') {
      fault.argument = name[3] - '0';
      fault.value = std::stoull(value, nullptr, 0);
    } else {
      throw std::invalid_argument("fault: unknown name: " + name);
    }
    first = false;
    at = end + 1;
  }
  return fault;
}

Outcome run(const std::vector<Fault>& faults, const std::function<int()>& body) {
  Outcome outcome;
  int sockets[2], pipes[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0 || ::pipe2(pipes, O_CLOEXEC) != 0) {
    throw std::runtime_error(std::string("faults: ") + strerror(errno));
  }
  std::fflush(nullptr);  // or the child prints the parent's lines once more
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error(std::string("faults: fork: ") + strerror(errno));
  if (child == 0) {
    ::close(sockets[0]);
    ::close(pipes[0]);
    be_child(faults, sockets[1], pipes[1], body);
  }
  ::close(sockets[1]);
  ::close(pipes[1]);
  const int listener = receive_descriptor(sockets[0]);
  ::close(sockets[0]);
  outcome.ran = listener >= 0 || faults.empty();
  Supervisor(faults, listener, pipes[0]).watch(outcome);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

Outcome run_command(const std::vector<Fault>& faults, const std::vector<std::string>& command) {
  return run(faults, [&command] {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    std::printf("cannot run %s: %s\n", arguments[0], strerror(errno));
    return 127;
  });
}

}  // namespace spillway::faults
