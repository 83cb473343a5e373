#include "support.hpp"

#include <dmaflow/deadline.hpp>

#include <csignal>
#include <cstdint>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace dmaflow {
namespace {

using namespace std::chrono_literals;

TEST(Deadline, PassedHasNothingLeft) {
  EXPECT_EQ(Deadline::immediate().remaining(), 0ns);
  EXPECT_EQ(Deadline::after(-1h).remaining(), 0ns);
  EXPECT_EQ(Deadline::after(Deadline::Clock::duration::min()).remaining(), 0ns);
  EXPECT_EQ(Deadline::at(Deadline::Clock::time_point::min()).remaining(), 0ns);
  const timespec left = sys::timespec_of(Deadline::immediate().remaining());
  EXPECT_EQ(left.tv_sec, 0);
  EXPECT_EQ(left.tv_nsec, 0);
}

TEST(Deadline, FarAwayDoesNotOverflow) {
  EXPECT_GT(Deadline::after(Deadline::Clock::duration::max()).remaining(), 24h);
  EXPECT_GT(Deadline::at(Deadline::Clock::time_point::max()).remaining(), 24h);
  const timespec left = sys::timespec_of(Deadline::after(Deadline::Clock::duration::max()).remaining());
  EXPECT_GT(left.tv_sec, 24 * 3600);
  EXPECT_LT(left.tv_nsec, 1'000'000'000);
}

TEST(Deadline, RemainingIsWhatIsLeft) {
  const Deadline deadline = Deadline::after(1h);
  EXPECT_LE(deadline.remaining(), 1h);
  EXPECT_GT(deadline.remaining(), 30min);
  EXPECT_EQ(Deadline::at(deadline.time()).time(), deadline.time());
  const timespec left = sys::timespec_of(deadline.remaining());
  EXPECT_GE(left.tv_sec, 1800);
  EXPECT_GE(left.tv_nsec, 0);
  EXPECT_LT(left.tv_nsec, 1'000'000'000);
}

/// An empty pipe.
struct Pipe {
  Pipe() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe(ends), 0);
    read = Fd::adopt(ends[0]);
    write = Fd::adopt(ends[1]);
  }
  Fd read;
  Fd write;
};

TEST(Deadline, PassedOnlyLooks) {
  const Pipe pipe;
  EXPECT_EQ(sys::wait(pipe.read.get(), POLLIN, Deadline::immediate()), 0);
  EXPECT_EQ(::write(pipe.write.get(), "x", 1), 1);
  EXPECT_EQ(sys::wait(pipe.read.get(), POLLIN, Deadline::immediate()), POLLIN);
}

TEST(Deadline, WaitEndsAtTheDeadlineNotBefore) {
  const Pipe pipe;
  for (const auto span : {30ms, 1010ms}) {  // longer waits are in whole milliseconds at first
    const Deadline deadline = Deadline::after(span);
    EXPECT_EQ(sys::wait(pipe.read.get(), POLLIN, deadline), 0);
    EXPECT_EQ(deadline.remaining(), 0ns);
  }
}

TEST(Deadline, WaitKeepsItsDeadlineAcrossSignals) {
  struct sigaction action{};
  action.sa_handler = [](int) {};  // without SA_RESTART, so that the wait returns EINTR
  struct sigaction before{};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);

  const Pipe pipe;
  const Deadline deadline = Deadline::after(1060ms);  // first by poll(), and at the end by ppoll()
  std::atomic<bool> done{false};
  int result = -1;
  std::thread waiter([&] {
    result = sys::wait(pipe.read.get(), POLLIN, deadline);
    done = true;
  });
  while (!done) {
    pthread_kill(waiter.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(1ms);
  }
  waiter.join();
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(result, 0);
  EXPECT_EQ(deadline.remaining(), 0ns);
}

}  // namespace
}  // namespace dmaflow
