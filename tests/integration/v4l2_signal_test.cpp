// v4l2::Camera and the signal on its input: lost, back, changed, and that of another input (vivid, in the lab).
#include "fake.hpp"
#include "v4l2_support.hpp"

#include <dmaflow/log.hpp>
#include <dmaflow/pipeline.hpp>

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using v4l2::Camera;

/// vivid's HDMI input with a signal that the test controls; restored at the end.
class Hdmi {
 public:
  Hdmi() : camera_(must(Camera::open(vivid(Kind::capture, false), {.input = "HDMI"}), "open")) { send("1280x720p60"); }
  ~Hdmi() { set("Current DV Timings"); }
  Hdmi(const Hdmi&) = delete;
  Hdmi& operator=(const Hdmi&) = delete;

  Camera& camera() { return *camera_; }
  /// "No Signal", "No Lock", "Selected DV Timings", ...
  void set(std::string_view mode) { must(camera_->set_control("DV Timings Signal Mode", mode), "signal mode"); }
  void send(std::string_view timings) {
    must(camera_->set_control("DV Timings", timings), "timings");
    set("Selected DV Timings");
  }
  void configure_as_it_is() {
    StreamRequest request;
    request.formats = {formats::xrgb8888};
    must(camera_->set_output(must(camera_->offers(request), "offers").front()), "set_output");
  }

 private:
  std::unique_ptr<Camera> camera_;
};

/// Waits until the camera reports that its signal changed; counts the frames until then.
bool changes(Camera& camera, std::chrono::milliseconds patience = 20s) {
  const auto deadline = Deadline::after(patience);
  while (true) {
    if (camera.take_changed()) return true;
    const int ready = sys::wait(camera.poll_fd(), camera.poll_events(), deadline);
    if (ready <= 0) return false;
    must(camera.dispatch(static_cast<short>(ready)), "dispatch");
    (void)must(camera.take(), "take");
  }
}

class V4l2NoSignal : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, V4l2NoSignal, ::testing::Values("No Signal", "No Lock"), [](const auto& test) {
  return std::string(test.param).substr(0, 2) + std::string(test.param).substr(3);
});

TEST_P(V4l2NoSignal, IsNoChangeUntilThereIsOneAgain) {
  const LeakCheck leaks;
  Hdmi hdmi;
  Camera& camera = hdmi.camera();
  hdmi.configure_as_it_is();
  must(camera.start(own_buffers(camera, 4)));
  EXPECT_EQ(capture(camera, 5).size(), 5U);
  hdmi.set(GetParam());
  EXPECT_FALSE(changes(camera, 300ms));
  EXPECT_EQ(camera.poll_events(), POLLPRI) << "only an event can go on";
  EXPECT_FALSE(must(camera.take())) << "no picture of a signal that is gone";
  const CountCalls calls;
  EXPECT_FALSE(camera.take_changed());
  EXPECT_EQ(calls.calls(), 0U) << "a look per event, no more";
  hdmi.send("1024x768p60");
  EXPECT_TRUE(changes(camera));
  EXPECT_FALSE(changes(camera, 100ms)) << "true once";
}

TEST_P(V4l2NoSignal, BeforeTheStartCanBeWaitedFor) {
  Hdmi hdmi;
  Camera& camera = hdmi.camera();
  hdmi.set(GetParam());
  const auto refused = camera.offers({});
  ASSERT_FALSE(refused);
  EXPECT_EQ(camera.poll_events(), POLLPRI);
  EXPECT_FALSE(changes(camera, 100ms));
  hdmi.send("1024x768p60");
  EXPECT_TRUE(changes(camera));
  hdmi.configure_as_it_is();
  EXPECT_EQ(camera.output().layout.size, (Size{1024, 768}));
}

/// Steps until @p done is true; false if it does not become true in time.
bool steps(Pipeline& pipeline, const std::function<bool()>& done) {
  const auto deadline = Deadline::after(30s);
  while (!done()) {
    const auto stepped = pipeline.step(Deadline::after(100ms));
    if (!stepped) {
      ADD_FAILURE() << stepped.error().message();
      return false;
    }
    if (deadline.remaining() <= Deadline::Clock::duration::zero()) return false;
  }
  return true;
}

struct Streaming {
  Streaming() {
    must(pipeline.connect(hdmi.camera(), sink), "connect");
    StreamRequest request;
    request.formats = {formats::xrgb8888};
    const auto plans = pipeline.prepare(request);
    if (!plans) {
      ADD_FAILURE() << plans.error().message();
      std::abort();
    }
    must(pipeline.start(), "start");
  }
  bool shows(std::size_t more) {
    const std::size_t until = sink.shown.size() + more;
    return steps(pipeline, [&] { return sink.shown.size() >= until; });
  }
  [[nodiscard]] Size size() const { return pipeline.plans().front().config.layout.size; }
  [[nodiscard]] std::uint64_t renegotiations() const { return pipeline.stats().streams.front().renegotiations; }

  Hdmi hdmi;
  FakeSink sink;
  Pipeline pipeline;
};

TEST_P(V4l2NoSignal, InMidStreamThePipelineWaitsAndGoesOnWithTheNewPlan) {
  const LeakCheck leaks;
  Streaming run;
  ASSERT_TRUE(run.shows(5));
  EXPECT_EQ(run.size(), (Size{1280, 720}));
  for (const Size size : {Size{1024, 768}, Size{800, 600}, Size{800, 600}}) {
    const std::uint64_t before = run.renegotiations();
    run.hdmi.set(GetParam());
    ASSERT_TRUE(steps(run.pipeline, [&] { return run.hdmi.camera().poll_events() == POLLPRI; }));
    EXPECT_EQ(run.renegotiations(), before) << "there is nothing to negotiate with";
    run.hdmi.send(std::to_string(size.width) + "x" + std::to_string(size.height) + "p60");
    ASSERT_TRUE(steps(run.pipeline, [&] { return run.renegotiations() == before + 1; }));
    EXPECT_EQ(run.size(), size);
    ASSERT_TRUE(run.shows(5));
    EXPECT_EQ(run.renegotiations(), before + 1);
  }
  must(run.pipeline.stop(Deadline::after(2s)));
}

/// Makes the signal disappear between the camera's check and the next step: at the n-th detection from now on.
class LoseSignal : public CountCalls {
 public:
  LoseSignal(Hdmi& hdmi, std::size_t nth) : hdmi_(hdmi), nth_(nth) {}
  int before(const sys::Call& call) noexcept override {
    if (call.request == VIDIOC_QUERY_DV_TIMINGS && ++detections_ == nth_) hdmi_.set("No Signal");
    return proceed;
  }

 private:
  Hdmi& hdmi_;
  std::size_t nth_;
  std::size_t detections_ = 0;
};

TEST(V4l2Signal, LostAgainWhileThePipelineNegotiatesItIsWaitedForAgain) {
  const LeakCheck leaks;
  Streaming run;
  ASSERT_TRUE(run.shows(5));
  for (const std::size_t detection : {2U, 3U}) {  // the first is the check after the event
    {
      const LoseSignal lose(run.hdmi, detection);
      run.hdmi.send(detection == 2 ? "1024x768p60" : "800x600p60");
      ASSERT_TRUE(steps(run.pipeline, [&] { return run.hdmi.camera().poll_events() == POLLPRI; })) << detection;
    }
    run.hdmi.send("1024x768p60");
    ASSERT_TRUE(run.shows(5)) << detection;
    EXPECT_EQ(run.size(), (Size{1024, 768}));
  }
  must(run.pipeline.stop(Deadline::after(2s)));
}

TEST(V4l2Signal, WhatStaysAwayIsWaitedForLongerThanTheFrameTimeout) {
  const LeakCheck leaks;
  Hdmi hdmi;
  FakeSink sink;
  Pipeline pipeline;
  must(pipeline.connect(hdmi.camera(), sink));
  StreamRequest request;
  request.formats = {formats::xrgb8888};
  ASSERT_TRUE(pipeline.prepare(request));
  std::vector<std::string> said;
  set_log_hook([](LogLevel, std::string_view text,
                  void* user) { static_cast<std::vector<std::string>*>(user)->emplace_back(text); },
               &said);
  hdmi.set("No Signal");
  const auto ended = pipeline.run({.duration = 2s, .frame_timeout = 500ms});
  set_log_hook(nullptr);
  must(ended);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_NE(said[0].find("no signal"), std::string::npos) << said[0];
}

/// Sends events of the TV and S-Video inputs, whichever is current.
void touch_tv(Camera& camera) {
  must(camera.set_control("Standard Signal Mode", "No Lock"));
  must(camera.set_control("Standard Signal Mode", "Current Standard"));
}

TEST(V4l2Signal, OfAnInputThatWasLeftSaysNothing) {
  auto camera = must(Camera::open(vivid(Kind::capture, false), {.input = "TV"}));
  set_input(*camera, {720, 576}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  touch_tv(*camera);
  EXPECT_TRUE(changes(*camera));
  must(camera->stop());
  Hdmi hdmi;
  must(camera->select_input("HDMI"));
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  touch_tv(*camera);
  EXPECT_FALSE(changes(*camera, 200ms));
}

TEST(V4l2Signal, OfATvInputIsAwaitedLikeAnyOther) {
  auto camera = must(Camera::open(vivid(Kind::capture, false), {.input = "TV"}));
  set_input(*camera, {720, 576}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  must(camera->set_control("Standard Signal Mode", "No Signal"));
  EXPECT_FALSE(changes(*camera, 200ms));
  EXPECT_EQ(camera->poll_events(), POLLPRI);
  must(camera->set_control("Standard Signal Mode", "Current Standard"));
  EXPECT_TRUE(changes(*camera));
}

TEST(V4l2Signal, AnEventOfAnotherInputIsNotBelieved) {
  class Forge : public CountCalls {
   public:
    int before(const sys::Call& call) noexcept override {
      if (call.request != VIDIOC_DQEVENT) return proceed;
      auto* event = const_cast<v4l2_event*>(static_cast<const v4l2_event*>(call.argument));
      if (::ioctl(call.fd, call.request, event) < 0) return errno;
      event->id ^= 1;
      ++forged;
      return pretend;
    }
    std::size_t forged = 0;
  } forge;
  Hdmi hdmi;
  Camera& camera = hdmi.camera();
  hdmi.configure_as_it_is();
  must(camera.start(own_buffers(camera, 4)));
  const std::size_t before = forge.forged;
  hdmi.send("1024x768p60");
  EXPECT_FALSE(changes(camera, 200ms));
  EXPECT_GT(forge.forged, before);
}

}  // namespace
}  // namespace dmaflow::test
