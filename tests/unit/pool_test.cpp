#include "fake.hpp"

#include <dmaflow/pool.hpp>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

class PoolTest : public testing::Test {
 protected:
  PretendDmaBufs pretend;
  FakeAllocator allocator{"memory"};
  Request request{.size = {64, 48}, .format = formats::xrgb8888, .count = 2};
};

TEST_F(PoolTest, GivesEachBufferOnceAndReportsStarvation) {
  Pool pool = must(Pool::create(allocator, request));
  Frame a = must(pool.acquire());
  Frame b = must(pool.acquire());
  EXPECT_NE(a.buffer(), b.buffer());
  const auto starved = pool.acquire();
  EXPECT_TRUE(fails_with(starved, EAGAIN));
  EXPECT_EQ(pool.stats().starved, 1U);
  EXPECT_EQ(pool.held(), 2U);
  a.release();
  EXPECT_TRUE(pool.acquire());
}

TEST_F(PoolTest, FramesOutliveThePool) {
  Frame frame;
  {
    Pool pool = must(Pool::create(allocator, request));
    frame = must(pool.acquire());
  }
  EXPECT_GT(frame.buffer().size(0), 0U);
}

TEST_F(PoolTest, GrowsAndShrinksBetweenFrames) {
  const LeakCheck leaks;
  Pool pool = must(Pool::create(allocator, request));
  const auto fds = open_fds().size();
  must(pool.grow(must(allocator.allocate(request))));
  EXPECT_EQ(pool.size(), 4U);
  Frame held[4] = {must(pool.acquire()), must(pool.acquire()), must(pool.acquire()), must(pool.acquire())};
  must(pool.shrink(3));
  EXPECT_EQ(pool.size(), 1U);
  for (Frame& frame : held) frame.release();
  Frame only = must(pool.acquire());
  EXPECT_TRUE(fails_with(pool.acquire(), EAGAIN)) << "the others have left";
  only.release();
  EXPECT_LT(open_fds().size(), fds);
  EXPECT_TRUE(fails_with(pool.shrink(2), EINVAL));
}

TEST_F(PoolTest, ABufferThatIsNoneIsRefused) { EXPECT_TRUE(fails_with(Pool::create(std::vector<Buffer>(1)), EINVAL)); }

TEST_F(PoolTest, OnlyWhatSomebodyHoldsIsHeld) {
  Pool pool = must(Pool::create(allocator, request));
  must(pool.acquire()).release();
  EXPECT_EQ(pool.held(), 0U);
}

TEST_F(PoolTest, NoBuffersIsAnError) { EXPECT_TRUE(fails_with(Pool::create(std::vector<Buffer>()), EINVAL)); }

TEST_F(PoolTest, AnAllocatorsRefusalIsPassedOn) {
  allocator.refusal = Error::os(ENOMEM, "allocate", "memory");
  EXPECT_TRUE(fails_with(Pool::create(allocator, request), ENOMEM));
}

}  // namespace
