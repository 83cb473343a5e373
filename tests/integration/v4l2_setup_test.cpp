// v4l2::Camera: what a device has and how it is set. Inputs, timings, rates, controls, rectangles.
#include "v4l2_support.hpp"

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using v4l2::Camera;

std::unique_ptr<Camera> open(const Camera::Options& options = {}) {
  return must(Camera::open(vivid(Kind::capture, false), options), "open");
}

std::string current_input(const Camera& camera) {
  for (const v4l2::Port& port : must(camera.inputs())) {
    if (port.is_current) return port.name.substr(0, port.name.find(' '));
  }
  return "none";
}

StreamRequest wish(Size size, PixelFormat format = formats::xrgb8888) {
  StreamRequest request;
  request.size = size;
  request.formats = {format};
  return request;
}

double rate(Interval interval) { return static_cast<double>(interval.denominator) / interval.numerator; }

TEST(V4l2List, NamesEveryDeviceAndItsKind) {
  const LeakCheck leaks;
  int kinds[2][2] = {};
  for (const v4l2::DeviceInfo& info : v4l2::list()) {
    if (info.driver != "vivid") continue;
    EXPECT_NE(info.capture, info.output) << info.path;
    EXPECT_TRUE(info.streaming);
    EXPECT_EQ(info.card, "vivid");
    EXPECT_EQ(info.bus.rfind("platform:vivid-", 0), 0U) << info.bus;
    ++kinds[info.output][info.multiplanar];
  }
  for (const auto& row : kinds) {
    for (const int count : row) EXPECT_GT(count, 0);
  }
}

TEST(V4l2Formats, AreListedWithSizesAndRates) {
  auto camera = open();
  const auto formats = must(camera->formats());
  const auto find = [&](std::uint32_t code) {
    const auto at = std::find_if(formats.begin(), formats.end(), [&](const v4l2::Format& f) { return f.code == code; });
    EXPECT_NE(at, formats.end());
    return *at;
  };
  const v4l2::Format xr24 = find(V4L2_PIX_FMT_XBGR32);
  EXPECT_EQ(xr24.format, formats::xrgb8888);
  EXPECT_TRUE(xr24.known);
  EXPECT_FALSE(xr24.description.empty());
  EXPECT_FALSE(find(V4L2_PIX_FMT_HSV32).known) << "carried";
  const auto sizes = must(camera->sizes(xr24));
  const auto hd =
      std::find_if(sizes.begin(), sizes.end(), [](const v4l2::SizeRange& s) { return s.min == Size{1280, 720}; });
  ASSERT_NE(hd, sizes.end());
  EXPECT_TRUE(hd->is_discrete());
  const auto intervals = must(camera->intervals(xr24, {1280, 720}));
  EXPECT_GT(intervals.size(), 5U);
  const auto hdmi = open({.input = "HDMI"});
  const auto grid = must(hdmi->sizes(xr24));
  ASSERT_EQ(grid.size(), 1U);
  EXPECT_FALSE(grid[0].is_discrete());
  EXPECT_TRUE(grid[0].contains({642, 482}));
  EXPECT_FALSE(grid[0].contains({641, 481}));
}

TEST(V4l2Formats, AnUnknownCodeIsCarriedAndStreams) {
  auto camera = open();
  const auto hsv = PixelFormat::of('H', 'S', 'V', '4');
  configure(*camera, {640, 480}, hsv);
  EXPECT_EQ(camera->output().layout.format, hsv);
  EXPECT_TRUE(camera->output().layout.modifier.is_implicit());
  EXPECT_EQ(camera->output().layout.opaque_bytes, 640U * 480 * 4);
  must(camera->start(own_buffers(*camera, 4)), "start");
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Offers, WithoutARateItIsTheHighestUpTo60) {
  auto camera = open();
  EXPECT_EQ(must(camera->offers(wish({640, 480}))).front().interval, (Interval{1, 60})) << "120/s is there too";
  auto slower = wish({640, 480});
  slower.interval = Interval{1, 25};
  const auto config = must(camera->offers(slower)).front();
  EXPECT_EQ(config.interval, (Interval{1, 25}));
  must(camera->set_output(config));
  EXPECT_EQ(camera->output().interval, (Interval{1, 25}));
  must(camera->start(own_buffers(*camera, 4)));
  const auto frames = capture(*camera, 4);
  ASSERT_EQ(frames.size(), 4U);
  EXPECT_GT(frames[3].timestamp - frames[0].timestamp, std::chrono::milliseconds(75)) << "three of 40 ms, not of 17";
}

TEST(V4l2Offers, FormatsComeInTheOrderAskedForAndWithoutSizeTheCurrentOneFirst) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
  StreamRequest request;
  request.formats = {formats::nv12, formats::xrgb8888};
  const auto offers = must(camera->offers(request));
  ASSERT_GT(offers.size(), 4U);
  EXPECT_EQ(offers[0].layout.size, (Size{640, 480}));
  EXPECT_EQ(offers[0].layout.format, formats::nv12);
  EXPECT_EQ(offers[1].layout.format, formats::xrgb8888);
  EXPECT_EQ(offers[2].layout.size, (Size{3840, 2160})) << "then the others, the largest first";
  EXPECT_EQ(offers[0].layout.planes[0].stride, 0U) << "exact only once it is set";
}

TEST(V4l2Offers, ASizeThatOnlyAnotherInputHasIsFoundThereAndAskingChangesNothing) {
  const LeakCheck leaks;
  auto camera = open();
  ASSERT_EQ(current_input(*camera), "Webcam");
  configure(*camera, {1280, 720}, formats::xrgb8888);
  EXPECT_EQ(current_input(*camera), "Webcam") << "the current one has it";
  EXPECT_EQ(camera->output().interval, (Interval{1, 60}));
  const auto offers = must(camera->offers(wish({1024, 768})), "a DV timing of the HDMI input");
  EXPECT_EQ(current_input(*camera), "Webcam") << "offers() only asks";
  must(camera->set_output(offers.front()));
  EXPECT_EQ(current_input(*camera), "HDMI");
  EXPECT_NEAR(rate(camera->output().interval), 60.0, 0.1);
  EXPECT_EQ(must(camera->detected_timings()).size, (Size{1024, 768}));
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Offers, ARateThatOnlyAnotherInputHasIsFoundThere) {
  auto camera = open();
  auto request = wish({1920, 1080});
  request.interval = Interval{1, 60};
  must(camera->set_output(must(camera->offers(request)).front()));
  EXPECT_EQ(current_input(*camera), "HDMI") << "the webcam has 1920x1080 at 30/s only";
  EXPECT_NEAR(rate(camera->output().interval), 60.0, 0.1);
}

TEST(V4l2Offers, NoInputIsSwitchedToThatWouldScale) {
  auto camera = open();
  const auto refused = camera->offers(wish({1000, 500}));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().detail().find("other inputs"), std::string_view::npos);
  EXPECT_EQ(current_input(*camera), "Webcam");
  auto chosen = open({.input = "HDMI"});
  EXPECT_TRUE(chosen->offers(wish({1000, 500}))) << "where the user chose it, its scaler may be used";
}

TEST(V4l2Inputs, InputAndTimingsAreRestoredAtTheEnd) {
  const auto timings_before = must(open({.input = "HDMI"})->detected_timings());
  auto watcher = open();
  ASSERT_EQ(current_input(*watcher), "Webcam");
  auto camera = open();
  configure(*camera, {800, 600}, formats::xrgb8888);
  EXPECT_EQ(current_input(*watcher), "HDMI");
  EXPECT_NE(must(watcher->detected_timings()), timings_before);
  camera.reset();
  EXPECT_EQ(current_input(*watcher), "Webcam");
  EXPECT_EQ(must(open({.input = "HDMI"})->detected_timings()), timings_before);
}

TEST(V4l2Inputs, AreChosenByNumberNameOrItsBeginning) {
  EXPECT_EQ(current_input(*open({.input = "3"})), "HDMI");
  EXPECT_EQ(current_input(*open({.input = "hdmi"})), "HDMI");
  EXPECT_EQ(current_input(*open({.input = "S-Video 000-0"})), "S-Video");
  auto camera = open();
  EXPECT_EQ(current_input(*camera), "Webcam") << "each was restored";
  must(camera->select_input("TV"));
  EXPECT_EQ(current_input(*camera), "TV");
  const auto refused = Camera::open(vivid(Kind::capture, false), {.input = "SCART"});
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().detail().find("HDMI"), std::string_view::npos) << refused.error().message();
}

TEST(V4l2Timings, NoSignalIsSaid) {
  auto camera = open({.input = "HDMI"});
  must(camera->set_control("DV Timings Signal Mode", "No Signal"));
  const auto timings = camera->detected_timings();
  const auto offers = camera->offers(wish({1280, 720}));
  const auto inputs = must(camera->inputs());
  must(camera->set_control("DV Timings Signal Mode", "Current DV Timings"));
  EXPECT_TRUE(fails_with(timings, ENOLINK));
  ASSERT_TRUE(fails_with(offers, ENOLINK));
  EXPECT_NE(offers.error().detail().find("no signal"), std::string_view::npos) << offers.error().message();
  EXPECT_EQ(inputs[3].problem, "no signal");
}

TEST(V4l2Timings, AreListedAndSet) {
  auto camera = open({.input = "HDMI"});
  const auto known = must(camera->known_timings());
  EXPECT_GT(known.size(), 20U);
  v4l2::Timings wanted;
  wanted.size = {1920, 1080};
  wanted.interval = {1, 60};
  must(camera->set_timings(wanted));
  const auto now = must(camera->detected_timings());
  EXPECT_EQ(now.size, wanted.size);
  EXPECT_NEAR(rate(now.interval), 60.0, 0.1);
  EXPECT_FALSE(now.interlaced);
  wanted.size = {1234, 567};
  EXPECT_TRUE(fails_with(camera->set_timings(wanted), EINVAL));
}

TEST(V4l2Timings, ASignalThatChangesInMidStreamLeadsToANewStream) {
  const LeakCheck leaks;
  auto camera = open({.input = "HDMI"});
  configure(*camera, {1280, 720}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 5).size(), 5U);
  EXPECT_FALSE(camera->take_changed());
  must(camera->set_control("DV Timings", "1024x768p60"));
  must(camera->set_control("DV Timings Signal Mode", "Selected DV Timings"));
  bool changed = false;
  for (int i = 0; i < 60 && !changed && turn(*camera); ++i) {
    (void)camera->take();
    changed = camera->take_changed();
  }
  EXPECT_TRUE(changed);
  EXPECT_FALSE(camera->take_changed()) << "true once";
  must(camera->stop());
  StreamRequest any;
  any.formats = {formats::xrgb8888};
  const auto offers = must(camera->offers(any));
  EXPECT_EQ(offers.front().layout.size, (Size{1024, 768}));
  must(camera->set_output(offers.front()));
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 5).size(), 5U);
  EXPECT_FALSE(camera->take_changed()) << "setting the timings is no change of the signal";
  must(camera->set_control("DV Timings Signal Mode", "Current DV Timings"));
}

TEST(V4l2Standards, AreListedSetAndRestored) {
  const auto before = must(open({.input = "TV"})->standard());
  {
    auto camera = open({.input = "TV", .standard = "ntsc"});
    const auto all = must(camera->standards());
    EXPECT_GT(all.size(), 10U);
    EXPECT_EQ(must(camera->standard()).name, "NTSC");
    EXPECT_EQ(must(camera->standard()).lines, 525U);
    EXPECT_NEAR(rate(must(camera->standard()).interval), 29.97, 0.01);
    configure(*camera, {720, 480}, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)));
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
    EXPECT_TRUE(fails_with(camera->set_standard("PAL"), EBUSY));
    must(camera->stop());
    must(camera->set_standard("PAL"));
    EXPECT_EQ(must(camera->standard()).lines, 625U);
    configure(*camera, {720, 576}, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)));
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
  }
  EXPECT_EQ(must(open({.input = "TV"})->standard()).name, before.name);
}

TEST(V4l2Standards, AreDetectedWhereThereIsASignal) {
  auto camera = open({.input = "TV"});
  must(camera->set_control("Standard", "NTSC-M"));
  must(camera->set_control("Standard Signal Mode", "Selected Standard"));
  const auto detected = camera->detected_standard();
  must(camera->set_control("Standard Signal Mode", "No Signal"));
  const auto none = camera->detected_standard();
  must(camera->set_control("Standard Signal Mode", "Current Standard"));
  EXPECT_EQ(must(detected).name, "NTSC-M");
  EXPECT_TRUE(fails_with(none, ENOLINK));
}

TEST(V4l2Standards, RefusalsSayWhatThereIs) {
  const LeakCheck leaks;
  const auto unknown = Camera::open(vivid(Kind::capture, false), {.input = "TV", .standard = "625 lines"});
  ASSERT_TRUE(fails_with(unknown, EINVAL));
  EXPECT_NE(unknown.error().detail().find("PAL"), std::string_view::npos) << unknown.error().message();
  auto webcam = open();
  EXPECT_EQ(current_input(*webcam), "Webcam") << "refused, it was put back";
  EXPECT_TRUE(must(webcam->standards()).empty());
  EXPECT_TRUE(fails_with(webcam->set_standard("PAL"), ENODATA));
  EXPECT_TRUE(fails_with(webcam->standard(), ENODATA));
  EXPECT_TRUE(fails_with(webcam->detected_standard(), ENODATA));
}

TEST(V4l2Controls, AreReadAndSetByNameInAnyCase) {
  auto camera = open();
  must(camera->set_control("brightness", 77));
  EXPECT_EQ(must(camera->control("BRIGHTNESS")), 77);
  must(camera->set_control("Brightness", 128));
  must(camera->set_control("horizontal_flip", "true"));
  EXPECT_EQ(must(camera->control("Horizontal Flip")), 1);
  must(camera->set_control("Horizontal Flip", std::int64_t{0}));
  must(camera->set_control("Test Pattern", "100% colorbar"));
  EXPECT_EQ(must(camera->control("test_pattern")), 1);
  must(camera->set_control("Test Pattern", "75% Colorbar"));
  must(camera->set_control("Integer 64 Bits", std::int64_t{1} << 40));
  EXPECT_EQ(must(camera->control("Integer 64 Bits")), std::int64_t{1} << 40);
  must(camera->set_control("Integer 64 Bits", std::int64_t{0}));
  must(camera->set_control("Button", 1));
}

TEST(V4l2Controls, RefusalsSayWhatThereIs) {
  auto camera = open();
  const auto detail = [](const auto& result) { return std::string(result.error().detail()); };
  const auto unknown = camera->control("Warp Speed");
  ASSERT_TRUE(fails_with(unknown, EINVAL));
  EXPECT_NE(detail(unknown).find("Brightness"), std::string::npos);
  const auto high = camera->set_control("Brightness", 256);
  ASSERT_TRUE(fails_with(high, ERANGE));
  EXPECT_NE(detail(high).find("0 to 255"), std::string::npos);
  const auto item = camera->set_control("OSD Text Mode", "Purple");
  ASSERT_TRUE(fails_with(item, EINVAL));
  EXPECT_NE(detail(item).find("Counters Only"), std::string::npos);
  EXPECT_TRUE(fails_with(camera->set_control("Read-Only Integer 32 Bits", 3), EACCES));
  EXPECT_TRUE(fails_with(camera->control("Button"), EACCES));
}

TEST(V4l2Controls, CompoundOnesAreLeftOut) {
  auto camera = open();
  const auto all = camera->controls();
  EXPECT_GT(all.size(), 20U);
  for (const v4l2::Control& control : all) {
    EXPECT_NE(control.name, "U16 8x16 Matrix");
    EXPECT_NE(control.name, "Area");
    if (control.name == "Menu") {
      EXPECT_EQ(control.items.size(), 3U) << "menus have holes";
    } else if (control.name == "Integer Menu") {
      EXPECT_EQ(control.items.back().name, "42");
    }
  }
}

TEST(V4l2Selection, CropsAndComposes) {
  auto camera = open({.input = "HDMI"});
  configure(*camera, {1280, 720}, formats::xrgb8888);
  EXPECT_EQ(must(camera->crop()), (Rect{0, 0, 1280, 720}));
  const Rect part{320, 180, 640, 360};
  EXPECT_EQ(must(camera->set_crop(part)), part);
  EXPECT_EQ(must(camera->crop()), part);
  EXPECT_EQ(must(camera->set_compose(part)), part);
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture_one(*camera).info().visible, part) << "the rest of the buffer is no picture";
  must(camera->stop());
}

TEST(V4l2Color, IsTheDrivers) {
  auto camera = open({.input = "HDMI"});
  configure(*camera, {1280, 720}, formats::nv12);
  EXPECT_EQ(camera->output().color.matrix, ColorInfo::Matrix::bt709);
  EXPECT_EQ(camera->output().color.range, ColorInfo::Range::limited);
  EXPECT_EQ(camera->output().color.primaries, ColorInfo::Primaries::bt709);
}

}  // namespace
}  // namespace dmaflow::test
