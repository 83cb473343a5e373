#include "fake.hpp"

#include "uapi/sync_file.hpp"

#include <dmaflow/pool.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include <sys/eventfd.h>
#include <sys/stat.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

/// Lets memfds pass as dma-bufs and eventfds as sync_files while it lives.
class PretendMemoryAndFences : public PretendDmaBufs {
 public:
  /// A fence that is active until end().
  Fence fence() {
    Fd fd = Fd::adopt(::eventfd(0, EFD_CLOEXEC));
    status_[fd.get()] = 0;
    return Fence::adopt_unchecked(std::move(fd));
  }
  /// @p fence: the number of its descriptor. @p status: 1 signalled, negative failed.
  void end(int fence, int status = 1) { status_[fence] = status; }
  int before(const sys::Call& call) noexcept override {
    const auto found = status_.find(call.fd);
    if (call.request != SYNC_IOC_FILE_INFO || found == status_.end()) return PretendDmaBufs::before(call);
    static_cast<sync_file_info*>(const_cast<void*>(call.argument))->status = found->second;
    return pretend;
  }

 private:
  std::map<int, int> status_;
};

class PoolTest : public testing::Test {
 protected:
  std::vector<Buffer> more(std::uint32_t count) {
    std::vector<Buffer> buffers;
    while (buffers.size() < count) buffers.push_back(memfd_buffer(small_config().layout));
    return buffers;
  }
  PretendMemoryAndFences pretend;
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

TEST_F(PoolTest, BuffersAddedAfterAShrinkStay) {
  Pool pool = must(Pool::create(more(2)));
  Frame old[2] = {must(pool.acquire()), must(pool.acquire())};
  must(pool.shrink(2));
  const auto added = more(2);
  must(pool.grow(added));
  EXPECT_EQ(pool.size(), 2U);
  EXPECT_EQ(pool.held(), 2U) << "the two that are to leave";
  Frame fresh[2] = {must(pool.acquire()), must(pool.acquire())};
  for (const Frame& frame : fresh) EXPECT_TRUE(std::ranges::count(added, frame.buffer()));
  for (Frame& frame : old) frame.release();
  EXPECT_TRUE(fails_with(pool.acquire(), EAGAIN)) << "the old ones have left";
  for (Frame& frame : fresh) frame.release();
  EXPECT_EQ(pool.size(), 2U);
  EXPECT_EQ(pool.held(), 0U);
  must(pool.shrink(2));
  EXPECT_TRUE(fails_with(pool.acquire(), EAGAIN));
}

TEST_F(PoolTest, EachFrameHasAnIndexOfItsOwnAfterGrowthAndShrinking) {
  Pool pool = must(Pool::create(more(2)));
  must(pool.grow(more(3)));
  must(pool.shrink(2));
  must(pool.grow(more(4)));
  std::vector<Frame> frames;
  std::set<std::uint32_t> indices;
  for (auto frame = pool.acquire(); frame; frame = pool.acquire()) {
    EXPECT_TRUE(indices.insert(frame->index()).second) << frame->index() << " twice";
    EXPECT_LT(frame->index(), HoldSet::max_buffers);
    frames.push_back(std::move(*frame));
  }
  EXPECT_EQ(frames.size(), 7U);
}

TEST_F(PoolTest, HasNoMoreBuffersThanIndicesAndGrowsWholeOrNotAtAll) {
  Pool pool = must(Pool::create(more(HoldSet::max_buffers - 1)));
  EXPECT_TRUE(fails_with(pool.grow(more(2)), ENOSPC));
  EXPECT_TRUE(fails_with(pool.grow({more(1).front(), Buffer()}), EINVAL));
  EXPECT_TRUE(fails_with(pool.grow({}), EINVAL));
  EXPECT_EQ(pool.size(), HoldSet::max_buffers - 1);
  Frame held = must(pool.acquire());
  must(pool.shrink(HoldSet::max_buffers - 1));
  must(pool.grow(more(HoldSet::max_buffers - 1)));
  EXPECT_TRUE(fails_with(pool.grow(more(1)), ENOSPC)) << "the held one still has its index";
  held.release();
  must(pool.grow(more(1)));
  EXPECT_EQ(pool.size(), HoldSet::max_buffers);
}

TEST_F(PoolTest, ABufferIsHeldUntilItsReleaseFencesHaveEnded) {
  Pool pool = must(Pool::create(more(2)));
  Frame frame = must(pool.acquire());
  Frame other = must(frame.split());
  Fence first = pretend.fence();
  Fence second = pretend.fence();
  const int ends[2] = {first.poll_fd(), second.poll_fd()};
  frame.release(std::move(first));
  EXPECT_EQ(pool.held(), 1U) << "by the other holder";
  other.release(std::move(second));
  EXPECT_EQ(pool.held(), 1U) << "by both fences, though nobody has acquired since";
  pretend.end(ends[1]);
  EXPECT_EQ(pool.held(), 1U) << "by the first fence";
  pretend.end(ends[0], -EIO);
  EXPECT_EQ(pool.held(), 0U) << "a fence that failed has ended too";
  EXPECT_TRUE(pool.acquire());
}

TEST_F(PoolTest, ShrinkTakesFreeOnesFirstThenThoseThatOnlyWaitForFences) {
  Pool pool = must(Pool::create(more(3)));
  Frame shown = must(pool.acquire());
  Fence fence = pretend.fence();
  const int end = fence.poll_fd();
  must(pool.acquire()).release(std::move(fence));
  must(pool.shrink(2));
  EXPECT_EQ(pool.size(), 1U);
  EXPECT_EQ(pool.held(), 2U);
  pretend.end(end);
  EXPECT_EQ(pool.held(), 1U);
  EXPECT_TRUE(fails_with(pool.acquire(), EAGAIN));
  const Buffer stays = shown.buffer();
  shown.release();
  EXPECT_EQ(must(pool.acquire()).buffer(), stays);
}

/// What a user of the pool knows: which buffers there are, and who holds them.
class PoolModel {
 public:
  PoolModel(PretendMemoryAndFences& kernel, unsigned seed) : kernel_(kernel), random_(seed) {
    auto first = make(3);
    remember(first);
    pool_.emplace(must(Pool::create(std::move(first))));
  }

  void step() {
    const auto what = below(16);
    if (what < 6) acquire();
    if (what >= 6 && what < 11) let_go();
    if (what >= 11 && what < 14) end_a_fence();
    if (what == 14) grow();
    if (what == 15) shrink();
    check();
  }
  void finish() {
    while (std::ranges::any_of(known_, &Known::is_held)) {
      let_go();
      end_a_fence();
      check();
    }
    EXPECT_EQ(leaving_, 0U);
    EXPECT_EQ(known_.size(), size_);
  }

 private:
  struct Known {
    int fd;
    ino_t inode;
    std::optional<std::uint32_t> index;
    std::vector<Frame> frames;
    std::vector<int> fences;  // active
    bool was_held_at_a_shrink = false;
    [[nodiscard]] bool is_held() const { return !frames.empty() || !fences.empty(); }
    /// Whether its memory still exists: the descriptor is open and refers to the same file.
    [[nodiscard]] bool is_alive() const {
      struct stat now{};
      return ::fstat(fd, &now) == 0 && now.st_ino == inode;
    }
  };

  static std::vector<Buffer> make(std::uint32_t count) {
    std::vector<Buffer> buffers;
    while (buffers.size() < count) buffers.push_back(memfd_buffer(small_config().layout));
    return buffers;
  }
  void remember(const std::vector<Buffer>& buffers) {
    for (const Buffer& buffer : buffers) {
      known_.push_back({.fd = buffer.fd(0), .inode = buffer.id(0).inode, .index = {}, .frames = {}, .fences = {}});
    }
    size_ += static_cast<std::uint32_t>(buffers.size());
  }
  std::uint32_t below(std::uint32_t limit) { return static_cast<std::uint32_t>(random_() % limit); }
  [[nodiscard]] std::size_t free() const { return known_.size() - held(); }
  [[nodiscard]] std::size_t held() const {
    return static_cast<std::size_t>(std::ranges::count_if(known_, &Known::is_held));
  }
  /// A random one for which @p wanted is true, or nullptr.
  template <typename Wanted>
  Known* any(Wanted wanted) {
    std::vector<Known*> found;
    for (Known& one : known_) {
      if (wanted(one)) found.push_back(&one);
    }
    return found.empty() ? nullptr : found[random_() % found.size()];
  }

  void acquire() {
    auto frame = pool_->acquire();
    ASSERT_EQ(frame.has_value(), free() > 0);
    if (!frame) return;
    const auto found = std::ranges::find(known_, frame->buffer().id(0).inode, &Known::inode);
    ASSERT_NE(found, known_.end());
    ASSERT_FALSE(found->is_held());
    ASSERT_EQ(found->index.value_or(frame->index()), frame->index()) << "a buffer keeps its index";
    found->index = frame->index();
    if (below(3) == 0) found->frames.push_back(must(frame->split()));
    found->frames.push_back(std::move(*frame));
  }
  void let_go() {
    Known* one = any([](const Known& each) { return !each.frames.empty(); });
    if (one == nullptr) return;
    if (below(2) == 0) {
      Fence fence = kernel_.fence();
      one->fences.push_back(fence.poll_fd());
      one->frames.back().release(std::move(fence));
    }
    one->frames.pop_back();
  }
  void end_a_fence() {
    Known* one = any([](const Known& each) { return !each.fences.empty(); });
    if (one == nullptr) return;
    kernel_.end(one->fences.back(), below(4) == 0 ? -EIO : 1);
    one->fences.pop_back();
  }
  void grow() {
    const auto added = make(1 + below(3));
    const auto grown = pool_->grow(added);
    ASSERT_EQ(grown.has_value(), known_.size() + added.size() <= HoldSet::max_buffers);
    if (grown) remember(added);
  }
  void shrink() {
    const std::uint32_t count = below(size_ + 2);
    const auto at_once = std::min<std::size_t>(count, free());
    const auto shrunk = pool_->shrink(count);
    ASSERT_EQ(shrunk.has_value(), count <= size_);
    if (!shrunk) return;
    size_ -= count;
    leaving_ += count - at_once;
    ASSERT_EQ(std::erase_if(known_, [](const Known& one) { return !one.is_held() && !one.is_alive(); }), at_once);
    for (Known& one : known_) one.was_held_at_a_shrink |= one.is_held();
  }
  void check() {
    ASSERT_EQ(pool_->size(), size_);
    ASSERT_EQ(pool_->held(), held());
    leaving_ -= std::erase_if(known_, [](const Known& one) {
      if (one.is_alive()) return false;
      EXPECT_FALSE(one.is_held()) << "memory of a held buffer was let go";
      EXPECT_TRUE(one.was_held_at_a_shrink) << "a buffer left that was added, or free, after the last shrink";
      return true;
    });
    for (Known& one : known_) one.was_held_at_a_shrink &= one.is_held();
    ASSERT_EQ(known_.size(), size_ + leaving_);
    std::set<std::uint32_t> indices;
    for (const Known& one : known_) {
      if (!one.index) continue;
      ASSERT_TRUE(indices.insert(*one.index).second) << *one.index << " twice";
    }
  }

  PretendMemoryAndFences& kernel_;
  std::mt19937 random_;
  std::optional<Pool> pool_;
  std::vector<Known> known_;
  std::uint32_t size_ = 0;
  std::size_t leaving_ = 0;  // held, and to be removed
};

TEST_F(PoolTest, RandomUseBehavesAsAModel) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    PoolModel model(pretend, seed);
    for (int i = 0; i < 1000 && !HasFatalFailure(); ++i) model.step();
    if (!HasFatalFailure()) model.finish();
    if (HasFailure()) return;
  }
}

}  // namespace
