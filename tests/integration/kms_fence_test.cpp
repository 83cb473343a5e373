// Fences and displays: nothing is shown before it is ready, and nothing waits unnecessarily.
#include "fence_support.hpp"
#include "kms_support.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/implicit_fences.hpp>
#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>

#include <atomic>
#include <thread>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

/// The next frame of a screen, with a fence.
Frame frame_of(Screen& screen, Fence ready, bool has_implicit_fences = false) {
  Frame frame = screen.next();
  EXPECT_TRUE(frame);
  FrameInfo info = frame.info();
  info.has_implicit_fences = has_implicit_fences;
  must(frame.set_info(info, std::move(ready)));
  return frame;
}

void offer(Screen& screen, Frame frame) {
  EXPECT_FALSE(must(screen.plane->accept(std::move(frame)))) << "nothing was displaced";
  must(screen.plane->flush());
}

std::vector<std::uint64_t> shown_by(kms::Plane& plane) {
  std::array<Presentation, 64> reports;
  std::vector<std::uint64_t> sequences;
  const std::size_t count = plane.take_presented(reports);
  for (std::size_t i = 0; i < count; ++i) sequences.push_back(reports[i].sequence);
  return sequences;
}

constexpr kms::PlaneOptions in_kernel = {.fences_in_kernel = true};

Screen lit(const std::string& driver, const kms::PlaneOptions& options = {}) {
  auto screen = must(Screen::open(driver, {1024, 768}, options));
  must(screen.show());
  (void)shown_by(*screen.plane);
  return screen;
}

/// Serves the plane as a loop does until the fence it waits for has signalled.
void serve_fence(kms::Plane& plane) {
  ASSERT_GE(plane.waiting_fence(), 0);
  ASSERT_GT(sys::wait(plane.waiting_fence(), POLLIN, Screen::soon()), 0);
  must(plane.dispatch(0));
}

TEST(KmsFence, WhereTheDriverRefusesFencesTheFrameWaitsHereAndTheLoopGoesOn) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver, in_kernel);
    SwSync work;
    {
      Recorder refuses;
      refuses.fail = [](const Recorder::Entry& entry) { return entry.request == DRM_IOCTL_MODE_ATOMIC ? EINVAL : 0; };
      offer(screen, frame_of(screen, work.fence(1)));
      EXPECT_EQ(refuses.count(DRM_IOCTL_MODE_ATOMIC), has_closefb(driver) ? 1U : 0U);
    }
    EXPECT_GE(screen.plane->waiting_fence(), 0) << driver;
    offer(screen, frame_of(screen, {}));  // finished before the frame in front of it
    EXPECT_FALSE(screen.plane->ready());
    const std::uint64_t commits = screen.output->commits();
    must(screen.plane->dispatch(0));
    EXPECT_EQ(screen.output->commits(), commits) << driver << ": nothing is shown before its fence, nor out of order";
    EXPECT_TRUE(fails_with(screen.plane->drain(Deadline::immediate()), ETIMEDOUT));
    work.advance();
    serve_fence(*screen.plane);
    EXPECT_EQ(screen.plane->waiting_fence(), -1);
    must(screen.plane->drain(Screen::soon()));
    const std::vector<std::uint64_t> in_order{screen.sequence - 1, screen.sequence};
    EXPECT_EQ(shown_by(*screen.plane), in_order) << driver;
    // After a refusal, the next frame is not tried with a fence again.
    Recorder calls;
    offer(screen, frame_of(screen, work.fence(2)));
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_ATOMIC), 0U) << driver;
    work.advance();
    serve_fence(*screen.plane);
    must(screen.plane->drain(Screen::soon()));
  }
}

TEST(KmsFence, FramesWaitHereUnlessTheUserLetsTheKernelWait) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver);
    SwSync work;
    const std::uint64_t commits = screen.output->commits();
    offer(screen, frame_of(screen, work.fence(1)));
    EXPECT_EQ(screen.output->commits(), commits) << driver << ": nothing waits in the kernel";
    work.advance();
    serve_fence(*screen.plane);
    must(screen.plane->drain(Screen::soon()));
    EXPECT_EQ(shown_by(*screen.plane), std::vector<std::uint64_t>{screen.sequence}) << driver;
  }
}

TEST(KmsFence, SlowerThanTheSourceStillShowsFrames) {
  auto screen = lit("vkms");
  SwSync work;
  offer(screen, frame_of(screen, work.fence(1)));
  const std::uint64_t first = screen.sequence;
  for (std::uint32_t i = 2; i < 20; ++i) {  // further frames displace each other, not the waiting one
    must(screen.plane->accept(frame_of(screen, work.fence(i)))).release();
    must(screen.plane->flush());
  }
  EXPECT_LE(screen.holds->lent(), screen.plane->max_held());
  work.advance();
  serve_fence(*screen.plane);
  work.advance(20);
  must(screen.plane->drain(Screen::soon()));
  const std::vector<std::uint64_t> expected{first, screen.sequence};
  EXPECT_EQ(shown_by(*screen.plane), expected);
}

TEST(KmsFence, ASignalledFenceCostsTwoCallsMore) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver);
    SwSync work;
    work.advance(5);
    Fence over = work.fence(1);
    Recorder calls;
    offer(screen, frame_of(screen, std::move(over)));
    EXPECT_EQ(calls.entries().size(), 2U) << driver << ": its status, and the commit";
    must(screen.show());
    must(screen.show());
    EXPECT_EQ(calls.count_named("close"), 1U) << driver;
  }
}

TEST(KmsFence, AFrameWhoseWorkFailedIsNotShown) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver);
    const std::uint32_t held = screen.holds->lent();
    SwSync work;
    Fence fails = work.fence(1);
    work.fail();
    offer(screen, frame_of(screen, std::move(fails)));
    EXPECT_EQ(screen.holds->lent(), held) << driver << ": let go";
    must(screen.plane->drain(Screen::soon()));
    EXPECT_TRUE(shown_by(*screen.plane).empty()) << driver;
    EXPECT_TRUE(screen.show()) << "the next one is";
  }
}

TEST(KmsFence, ImplicitFencesAreWaitedForWhereTheProducerHasThose) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver);
    SwSync work;
    Frame frame = frame_of(screen, {}, true);
    must(import_fence(frame.buffer(), work.fence(1), Access::write));
    const std::uint64_t commits = screen.output->commits();
    offer(screen, std::move(frame));
    EXPECT_EQ(screen.output->commits(), commits) << driver << ": not even committed: a driver may wait inside the call";
    work.advance();
    serve_fence(*screen.plane);
    must(screen.plane->drain(Screen::soon()));
    EXPECT_EQ(shown_by(*screen.plane), std::vector<std::uint64_t>{screen.sequence}) << driver;
  }
}

// As Linux before 6.0: ENOTTY at the seam, because no kernel here is that old.
TEST(KmsFence, ImplicitFencesAreWaitedForByPollWhereTheKernelGivesNoneOut) {
  auto screen = lit("vkms");
  SwSync work;
  Frame frame = frame_of(screen, {}, true);
  must(import_fence(frame.buffer(), work.fence(1), Access::write));
  {
    Recorder old;
    old.fail = [](const Recorder::Entry& entry) {
      return entry.request == DMA_BUF_IOCTL_EXPORT_SYNC_FILE ? ENOTTY : 0;
    };
    const std::uint64_t commits = screen.output->commits();
    offer(screen, std::move(frame));
    EXPECT_EQ(screen.output->commits(), commits);
    work.advance();
    serve_fence(*screen.plane);
    EXPECT_EQ(screen.output->commits(), commits + 1);
  }
  must(screen.plane->drain(Screen::soon()));
}

TEST(KmsOutFence, SignalsOnceTheCommitIsOnTheScreen) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver, in_kernel);
    EXPECT_TRUE(screen.output->take_out_fence().is_null()) << "none was wanted";
    must(screen.output->want_out_fences(true));
    SwSync work;
    const bool in_the_kernel = has_closefb(driver);
    offer(screen, frame_of(screen, in_the_kernel ? work.fence(1) : Fence()));
    const Fence out = screen.output->take_out_fence();
    ASSERT_FALSE(out.is_null()) << driver;
    if (in_the_kernel) {
      EXPECT_EQ(must(out.state()), Fence::State::active) << driver << ": its frame is not ready";
    }
    work.advance();
    EXPECT_TRUE(out.wait(Screen::soon())) << driver;
    must(screen.plane->drain(Screen::soon()));
    EXPECT_EQ(shown_by(*screen.plane), std::vector<std::uint64_t>{screen.sequence});
    must(screen.output->want_out_fences(false));
    must(screen.show());
    EXPECT_TRUE(screen.output->take_out_fence().is_null());
  }
}

TEST(KmsOutFence, NeitherTriesNorRefusalsNorFramesWithoutATakerLeakOne) {
  for (const std::string& driver : displays()) {
    auto screen = lit(driver);
    must(screen.output->want_out_fences(true));
    must(screen.show());
    const auto before = open_fds();
    for (int i = 0; i < 50; ++i) must(screen.show());  // each closes the out-fence of the one before
    EXPECT_TRUE(screen.plane->check_input(stream_of({1024, 768}))) << "tries with the driver (TEST_ONLY)";
    EXPECT_EQ(open_fds(), before) << driver;
    {
      Recorder fails;
      fails.fail = [](const Recorder::Entry& entry) { return entry.request == DRM_IOCTL_MODE_ATOMIC ? EIO : 0; };
      must(screen.plane->accept(screen.next())).release();
      EXPECT_TRUE(fails_with(screen.plane->flush(), EIO));
    }
    EXPECT_EQ(open_fds(), before) << driver;
  }
}

/// Shows a frame with a picture, and checks that the capture returns that picture.
void expect_the_picture_back(Screen& screen) {
  const auto formats = screen.output->capture_formats();
  ASSERT_NE(std::ranges::find(formats, formats::xrgb8888), formats.end());
  const Buffer source = show_a_pattern(screen);
  const Buffer target =
      must(screen.plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888})).front();
  const auto before = open_fds();
  for (int again = 0; again < 3; ++again) {
    const Fence written = must(screen.output->capture(target));
    EXPECT_FALSE(written.is_null());
    must(written.wait(Screen::soon()));
    EXPECT_EQ(differing_bytes(source, target), 0U);
  }
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(screen.stream()) << "frames flow as before";
}

TEST(KmsCapture, WithoutAMonitorWhatIsComposedComesBackByteForByte) {
  auto device = must(kms::Device::open(card_path("vkms")));
  const LeakCheck leaks;
  kms::Output* const output = must(device->output({.connector = "Writeback-1", .mode = Size{1024, 768}}));
  {
    auto screen = must(Screen::on(*output, {1024, 768}));
    expect_the_picture_back(screen);
    must(screen.plane->stop());
  }
  device->remove(output);
}

void expect_it_says_what_can(Screen& screen, const Result<Fence>& refused) {
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().message().find("Writeback-1"), std::string::npos) << refused.error().message();
  EXPECT_TRUE(screen.stream()) << "frames flow as before";
}

// A check in 6.12.31 and later refuses that on vkms, whose encoders were declared as possible clones only later.
TEST(KmsCapture, BesideAMonitorTooWhereTheDriverCanAndElseItSaysWhatCan) {
  auto screen = lit("vkms");
  const Buffer target =
      must(screen.plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888})).front();
  {
    const FailNth refuses(1, EINVAL, "ioctl", DRM_IOCTL_MODE_ATOMIC);  // like a driver that cannot do it
    expect_it_says_what_can(screen, screen.output->capture(target));
  }
  auto captured = screen.output->capture(target);
  observe("vkms writes back beside a monitor", captured.has_value(), "docs/kms.md");
  if (!captured) {
    expect_it_says_what_can(screen, captured);
    return;
  }
  must(captured->wait(Screen::soon()));
  expect_the_picture_back(screen);
  must(screen.plane->stop());
  EXPECT_TRUE(screen.show()) << "and again from the beginning";
}

TEST(KmsCapture, WhatCannotBeIsRefusedAndSaysWhatCould) {
  auto screen = must(Screen::open("vkms", {1024, 768}));
  const Buffer small =
      must(screen.plane->input_allocator()->allocate({.size = {64, 64}, .format = formats::xrgb8888})).front();
  EXPECT_TRUE(fails_with(screen.output->capture(small), EINVAL)) << "nothing is on the screen";
  must(screen.show());
  EXPECT_TRUE(fails_with(screen.output->capture(small), EINVAL)) << "another size";
  const Buffer other =
      must(screen.plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::nv12})).front();
  const auto refused = screen.output->capture(other);
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().message().find("XR"), std::string::npos) << refused.error().message();
  for (const std::string driver : {"virtio_gpu", "bochs-drm"}) {
    auto without = lit(driver);
    const bool can = !without.output->capture_formats().empty();
    observe(driver + " has a writeback connector", can);
    if (!can) {
      EXPECT_TRUE(fails_with(without.output->capture(other), EOPNOTSUPP)) << driver;
    }
  }
}

/// Work on each frame that takes longer than the frame interval, like that of a GPU. Frames are passed on at once, with
/// a fence.
class SlowWork final : public Stage {
 public:
  ~SlowWork() { stop_thread(); }
  [[nodiscard]] std::string_view name() const noexcept override { return "slow work"; }
  [[nodiscard]] bool passes_through() const noexcept override { return true; }
  [[nodiscard]] Result<void> check_input(const StreamConfig&) override { return {}; }
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override {
    config_ = config;
    return {};
  }
  [[nodiscard]] Result<void> import(const Buffer&) override { return {}; }
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 1; }
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest&) override { return {{config_}}; }
  [[nodiscard]] Result<void> set_output(const StreamConfig&) override { return {}; }
  [[nodiscard]] const StreamConfig& output() const noexcept override { return config_; }
  [[nodiscard]] Result<void> try_output(const Buffer&) override { return {}; }
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 0; }
  [[nodiscard]] int poll_fd() const noexcept override { return -1; }
  [[nodiscard]] short poll_events() const noexcept override { return 0; }
  [[nodiscard]] Result<void> dispatch(short) override { return {}; }
  [[nodiscard]] Result<void> start(std::span<const Buffer>, std::vector<Buffer>) override {
    thread_ = std::jthread([this](const std::stop_token& token) {
      while (!token.stop_requested()) {  // each fence signals about 25 ms after the one before
        std::this_thread::sleep_for(milliseconds(25));
        work_.advance();
        ++done_;
      }
    });
    return {};
  }
  [[nodiscard]] bool ready() const noexcept override { return !frame_; }
  [[nodiscard]] Result<void> accept(Frame frame) override {
    const std::uint32_t number = done_ + 1;  // signals at the thread's next step
    must(frame.set_info(frame.info(), work_.fence(number + 1)));
    ++given_;
    frame_ = std::move(frame);
    return {};
  }
  [[nodiscard]] Result<Frame> take() override { return std::move(frame_); }
  Result<void> drain(Deadline, const Cancel*) override { return {}; }
  Result<void> stop() noexcept override {
    stop_thread();
    frame_.release();
    return {};
  }
  [[nodiscard]] int given() const { return given_; }

 private:
  void stop_thread() noexcept {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
  }
  StreamConfig config_;
  SwSync work_;
  std::atomic<std::uint32_t> done_{0};
  int given_ = 0;
  Frame frame_;
  std::jthread thread_;
};

TEST(KmsFence, APipelineWithSlowWorkShowsNothingEarlyKeepsOrderAndServesTheOthers) {
  const LeakCheck leaks;
  const auto slow_camera = must(v4l2::Camera::open("/dev/video0"));
  const auto other_camera = must(v4l2::Camera::open("/dev/video1"));
  const auto slow_card = must(kms::Device::open(card_path("virtio_gpu")));
  const auto other_card = must(kms::Device::open(card_path("vkms")));
  kms::Plane* const slow_screen = must(must(slow_card->output())->plane());
  kms::Plane* const other_screen = must(must(other_card->output())->plane());
  SlowWork work;
  Pipeline pipeline;
  BranchOptions options;
  options.stages = {&work};
  must(pipeline.connect(*slow_camera, *slow_screen, "slow", std::move(options)));
  must(pipeline.connect(*other_camera, *other_screen, "other"));
  const auto plans = pipeline.prepare({.size = Size{640, 480}});
  ASSERT_TRUE(plans) << plans.error().message();
  must(pipeline.run({.frames = 120, .frame_timeout = std::chrono::seconds(20)}));
  const auto& slow = pipeline.stats().streams[0];
  const auto& other = pipeline.stats().streams[1];
  EXPECT_GE(slow.branches[0].presented, 10U);
  EXPECT_GE(other.captured, 120U) << "not held up by the slow one";
  EXPECT_GT(other.branches[0].presented, slow.branches[0].presented);
}

}  // namespace
