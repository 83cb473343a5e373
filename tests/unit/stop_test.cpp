#include "support.hpp"

#include <dmaflow/stop.hpp>

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace dmaflow {
namespace {

/// Restores the thread's signal mask for the tests that follow.
class KeepMask {
 public:
  KeepMask() { pthread_sigmask(SIG_SETMASK, nullptr, &mask_); }
  ~KeepMask() { pthread_sigmask(SIG_SETMASK, &mask_, nullptr); }
  KeepMask(const KeepMask&) = delete;
  KeepMask& operator=(const KeepMask&) = delete;

 private:
  sigset_t mask_{};
};

bool is_blocked(int signal) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, signal) == 1;
}

TEST(Stop, BecomesReadableOnEachStopSignalWithoutEndingTheProcess) {
  const test::LeakCheck leaks;
  const KeepMask mask;
  const Fd fd = test::must(stop_on_signals());
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EQ(sys::wait(fd.get(), POLLIN, Deadline::immediate()), 0);
    pthread_kill(pthread_self(), signal);
    EXPECT_EQ(sys::wait(fd.get(), POLLIN, Deadline::immediate()), POLLIN);
    signalfd_siginfo info{};
    ASSERT_EQ(::read(fd.get(), &info, sizeof info), static_cast<ssize_t>(sizeof info));
    EXPECT_EQ(info.ssi_signo, static_cast<std::uint32_t>(signal));
  }
}

TEST(Stop, IsCloexecAndNeverBlocksARead) {
  const KeepMask mask;
  const Fd fd = test::must(stop_on_signals());
  EXPECT_EQ(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  signalfd_siginfo info{};
  EXPECT_EQ(::read(fd.get(), &info, sizeof info), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(Stop, LeavesOtherSignalsAlone) {
  const KeepMask mask;
  const Fd fd = test::must(stop_on_signals());
  EXPECT_TRUE(is_blocked(SIGINT));
  EXPECT_FALSE(is_blocked(SIGUSR1));
  EXPECT_FALSE(is_blocked(SIGPIPE));
}

TEST(Stop, AFailureLeavesNothingBehindAndBlocksNothing) {
  const test::LeakCheck leaks;
  const KeepMask mask;
  for (const char* call : {"signalfd", "pthread_sigmask"}) {
    const test::FailNth fail(1, EMFILE, call);
    const auto result = stop_on_signals();
    EXPECT_TRUE(test::fails_with(result, EMFILE));
    EXPECT_EQ(result.error().operation(), call);
    EXPECT_FALSE(is_blocked(SIGINT));
  }
}

}  // namespace
}  // namespace dmaflow
