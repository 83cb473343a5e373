#include "support.hpp"

#include <dmaflow/fd.hpp>

#include <cerrno>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace dmaflow {
namespace {

using test::CountCalls;
using test::FailNth;
using test::LeakCheck;

int open_null() { return ::open("/dev/null", O_RDWR | O_CLOEXEC); }
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

static_assert(!std::is_copy_constructible_v<Fd> && !std::is_copy_assignable_v<Fd>);
static_assert(!std::is_convertible_v<int, Fd> && !std::is_convertible_v<Fd, int>);
static_assert(std::is_nothrow_move_constructible_v<Fd> && std::is_nothrow_move_assignable_v<Fd>);

TEST(Fd, DefaultOwnsNothing) {
  const CountCalls closes("close");
  {
    const Fd none;
    EXPECT_FALSE(none);
    EXPECT_EQ(none.get(), -1);
  }
  EXPECT_EQ(closes.calls(), 0U);
}

TEST(Fd, AdoptTakesAndTheDestructorCloses) {
  const LeakCheck leaks;
  const int number = open_null();
  {
    const Fd fd = Fd::adopt(number);
    EXPECT_TRUE(fd);
    EXPECT_EQ(fd.get(), number);
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, DupOfLeavesTheCallersAloneAndIsCloexec) {
  const LeakCheck leaks;
  const int number = open_null();
  {
    const Fd copy = test::must(Fd::dup_of(number));
    EXPECT_NE(copy.get(), number);
    EXPECT_EQ(::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  }
  EXPECT_TRUE(is_open(number));
  ::close(number);
}

TEST(Fd, DupOfNoDescriptorIsEbadf) { EXPECT_TRUE(test::fails_with(Fd::dup_of(-1), EBADF)); }

TEST(Fd, DupOfSaysWhenDescriptorsRunOut) {
  const LeakCheck leaks;
  const Fd fd = Fd::adopt(open_null());
  const FailNth fail(1, EMFILE, "dup");
  EXPECT_TRUE(test::fails_with(Fd::dup_of(fd.get()), EMFILE));
}

TEST(Fd, MovingPassesOwnershipOn) {
  const LeakCheck leaks;
  const CountCalls closes("close");
  {
    Fd first = Fd::adopt(open_null());
    const int number = first.get();
    Fd second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): a moved-from Fd must own nothing
    EXPECT_EQ(second.get(), number);
  }
  EXPECT_EQ(closes.calls(), 1U);
}

TEST(Fd, MoveAssignClosesWhatWasThere) {
  const LeakCheck leaks;
  Fd first = Fd::adopt(open_null());
  Fd second = Fd::adopt(open_null());
  const int replaced = first.get();
  const int kept = second.get();
  first = std::move(second);
  EXPECT_FALSE(is_open(replaced));
  EXPECT_EQ(first.get(), kept);
  EXPECT_TRUE(is_open(kept));
}

TEST(Fd, SelfMoveAssignKeepsIt) {
  Fd fd = Fd::adopt(open_null());
  const int number = fd.get();
  Fd& same = fd;
  fd = std::move(same);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST(Fd, ReleaseGivesItUpAndResetClosesOnce) {
  const LeakCheck leaks;
  const CountCalls closes("close");
  Fd fd = Fd::adopt(open_null());
  const int number = fd.release();
  EXPECT_FALSE(fd);
  EXPECT_TRUE(is_open(number));
  fd = Fd::adopt(number);
  fd.reset();
  fd.reset();
  EXPECT_FALSE(is_open(number));
  EXPECT_EQ(closes.calls(), 1U);
}

}  // namespace
}  // namespace dmaflow
