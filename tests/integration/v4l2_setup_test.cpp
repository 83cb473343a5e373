// v4l2::Camera: a device's properties and settings. Inputs, timings, rates, controls, rectangles.
#include "v4l2_support.hpp"

#include <algorithm>
#include <cctype>

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

/// The input whose name begins with @p name.
v4l2::Port input(const Camera& camera, std::string_view name) {
  for (v4l2::Port& port : must(camera.inputs(), "inputs")) {
    if (port.name.starts_with(name)) return std::move(port);
  }
  ADD_FAILURE() << "no input " << name;
  return {};
}

/// The entry for a format in the list of the camera's current input.
v4l2::Format listed(const Camera& camera, PixelFormat format) {
  for (v4l2::Format& one : must(camera.formats(), "formats")) {
    if (one.format == format && !one.separate_objects) return std::move(one);
  }
  ADD_FAILURE() << "no " << format.name();
  return {};
}
bool lists(const Camera& camera, Size size) {
  const auto sizes = must(camera.sizes(listed(camera, formats::xrgb8888)), "sizes");
  return std::ranges::any_of(sizes, [&](const v4l2::SizeRange& range) { return range.contains(size); });
}
/// The highest rate up to 60 that it lists for a size, 0 if there is none.
double highest_rate(const Camera& camera, Size size) {
  double highest = 0;
  for (const v4l2::IntervalRange& range :
       must(camera.intervals(listed(camera, formats::xrgb8888), size), "intervals")) {
    for (const Interval interval : {range.shortest, range.longest}) {
      if (rate(interval) < 60.5) highest = std::max(highest, rate(interval));
    }
  }
  return highest;
}

/// A descriptor of the camera for ioctls that the library does not see.
Fd raw(const Camera& camera) { return Fd::adopt(::open(camera.info().path.c_str(), O_RDWR | O_CLOEXEC)); }

TEST(V4l2List, NamesEveryDeviceAndItsKind) {
  const LeakCheck leaks;
  int kinds[2][2] = {};
  for (const v4l2::DeviceInfo& info : v4l2::list()) {
    if (info.driver != "vivid") continue;
    EXPECT_NE(info.capture, info.output) << info.path;
    EXPECT_TRUE(info.streaming);
    v4l2_capability caps{};
    const Fd fd = Fd::adopt(::open(info.path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::ioctl(fd.get(), VIDIOC_QUERYCAP, &caps), 0) << info.path;
    EXPECT_EQ(info.card, reinterpret_cast<const char*>(caps.card));
    EXPECT_EQ(info.bus, reinterpret_cast<const char*>(caps.bus_info));
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
  ASSERT_FALSE(intervals.empty());
  const Fd fd = raw(*camera);
  v4l2_frmivalenum interval{};
  interval.pixel_format = xr24.code;
  interval.width = 1280;
  interval.height = 720;
  while (::ioctl(fd.get(), VIDIOC_ENUM_FRAMEINTERVALS, &interval) == 0 && interval.type == V4L2_FRMIVAL_TYPE_DISCRETE) {
    ASSERT_LT(interval.index, intervals.size());
    EXPECT_EQ(rate(intervals[interval.index].shortest),
              static_cast<double>(interval.discrete.denominator) / interval.discrete.numerator);
    ++interval.index;
  }
  EXPECT_EQ(intervals.size(), std::max(interval.index, 1U)) << "a range is one entry";
}

TEST(V4l2Formats, SizesInStepsAreOneGrid) {
  const auto hdmi = open({.input = "HDMI"});  // an input with a scaler
  const v4l2::Format xr24 = listed(*hdmi, formats::xrgb8888);
  v4l2_frmsizeenum sizes{};
  sizes.pixel_format = xr24.code;
  ASSERT_EQ(::ioctl(raw(*hdmi).get(), VIDIOC_ENUM_FRAMESIZES, &sizes), 0);
  if (sizes.type == V4L2_FRMSIZE_TYPE_DISCRETE) GTEST_SKIP() << "vivid's HDMI input lists single sizes";
  const auto& steps = sizes.stepwise;
  const auto grid = must(hdmi->sizes(xr24));
  ASSERT_EQ(grid.size(), 1U);
  EXPECT_FALSE(grid[0].is_discrete());
  EXPECT_EQ(grid[0].min, (Size{steps.min_width, steps.min_height}));
  EXPECT_EQ(grid[0].max, (Size{steps.max_width, steps.max_height}));
  EXPECT_TRUE(grid[0].contains(grid[0].min));
  EXPECT_TRUE(grid[0].contains({steps.min_width + steps.step_width, steps.min_height + steps.step_height}));
  EXPECT_FALSE(grid[0].contains({steps.max_width + 1, steps.max_height}));
  if (steps.step_width > 1) {
    EXPECT_FALSE(grid[0].contains({steps.min_width + 1, steps.min_height}));
  }
}

TEST(V4l2Formats, AnUnknownCodeIsCarriedAndStreams) {
  auto camera = open();
  const auto hsv = PixelFormat::of('H', 'S', 'V', '4');
  set_input(*camera, {640, 480}, hsv);
  EXPECT_EQ(camera->output().layout.format, hsv);
  EXPECT_TRUE(camera->output().layout.modifier.is_implicit());
  EXPECT_GE(camera->output().layout.opaque_bytes, 640U * 480 * 4);
  EXPECT_EQ(camera->output().layout.opaque_bytes, camera->output().constraints.min_object_size[0]);
  must(camera->start(own_buffers(*camera, 4)), "start");
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Offers, WithoutARateItIsTheHighestUpTo60) {
  auto camera = open();
  const double highest = highest_rate(*camera, {640, 480});
  if (highest < 26) GTEST_SKIP() << "vivid's webcam input has no rate above 25/s";
  EXPECT_DOUBLE_EQ(rate(must(camera->offers(wish({640, 480}))).front().interval), highest);
  auto slower = wish({640, 480});
  slower.interval = Interval{1, 25};
  const auto config = must(camera->offers(slower)).front();
  EXPECT_EQ(config.interval, (Interval{1, 25}));
  must(camera->set_output(config));
  EXPECT_EQ(camera->output().interval, (Interval{1, 25}));
  must(camera->start(own_buffers(*camera, 4)));
  const auto frames = capture(*camera, 5);
  ASSERT_EQ(frames.size(), 5U);
  // Three intervals of 40 ms, not of 17. Not counted from the first frame, whose timestamp may be the time at which it
  // was taken.
  EXPECT_GT(frames[4].timestamp - frames[1].timestamp, std::chrono::milliseconds(75));
}

TEST(V4l2Offers, FormatsComeInTheOrderAskedForAndWithoutSizeTheCurrentOneFirst) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  StreamRequest request;
  request.formats = {formats::nv12, formats::xrgb8888};
  const auto offers = must(camera->offers(request));
  ASSERT_GT(offers.size(), 4U);
  EXPECT_EQ(offers[0].layout.size, (Size{640, 480}));
  EXPECT_EQ(offers[0].layout.format, formats::nv12);
  EXPECT_EQ(offers[1].layout.format, formats::xrgb8888);
  Size largest{};
  for (const v4l2::SizeRange& range : must(camera->sizes(listed(*camera, formats::nv12)))) {
    const auto pixels = [](Size size) { return std::uint64_t{size.width} * size.height; };
    if (range.min != Size{640, 480} && pixels(range.min) > pixels(largest)) largest = range.min;
  }
  EXPECT_EQ(offers[2].layout.size, largest) << "then the others, the largest first";
  EXPECT_EQ(offers[0].layout.planes[0].stride, 0U) << "exact only once it is set";
}

TEST(V4l2Offers, ASizeThatOnlyAnotherInputHasIsFoundThereAndAskingChangesNothing) {
  const LeakCheck leaks;
  auto camera = open();
  ASSERT_EQ(current_input(*camera), "Webcam");
  if (!lists(*camera, {1280, 720}) || lists(*camera, {1024, 768})) {
    GTEST_SKIP() << "vivid's webcam input has 1024x768 itself, or no 1280x720";
  }
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  EXPECT_EQ(current_input(*camera), "Webcam") << "the current one has it";
  EXPECT_DOUBLE_EQ(rate(camera->output().interval), highest_rate(*camera, {1280, 720}));
  const auto offers = must(camera->offers(wish({1024, 768})), "a DV timing of the HDMI input");
  EXPECT_EQ(current_input(*camera), "Webcam") << "offers() only asks";
  must(camera->set_output(offers.front()));
  EXPECT_EQ(current_input(*camera), "HDMI");
  EXPECT_EQ(must(camera->detected_timings()).size, (Size{1024, 768}));
  EXPECT_NEAR(rate(camera->output().interval), rate(must(camera->detected_timings()).interval), 0.1);
  EXPECT_NEAR(rate(camera->output().interval), 60.0, 0.5) << "the highest of its timings up to 60/s";
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Offers, ARateThatOnlyAnotherInputHasIsFoundThere) {
  auto camera = open();
  ASSERT_EQ(current_input(*camera), "Webcam");
  auto request = wish({1920, 1080});
  request.interval = Interval{1, 60};
  const bool has_itself = lists(*camera, {1920, 1080}) && highest_rate(*camera, {1920, 1080}) > 59;
  observe("vivid's webcam input has 1920x1080 at 60/s", has_itself, "docs/v4l2.md");
  must(camera->set_output(must(camera->offers(request)).front()));
  EXPECT_EQ(current_input(*camera), has_itself ? "Webcam" : "HDMI");
  EXPECT_NEAR(rate(camera->output().interval), 60.0, 0.5);
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
  if (lists(*watcher, {800, 600})) GTEST_SKIP() << "vivid's webcam input has 800x600 itself";
  auto camera = open();
  set_input(*camera, {800, 600}, formats::xrgb8888);
  EXPECT_EQ(current_input(*watcher), "HDMI");
  EXPECT_NE(must(watcher->detected_timings()), timings_before);
  camera.reset();
  EXPECT_EQ(current_input(*watcher), "Webcam");
  EXPECT_EQ(must(open({.input = "HDMI"})->detected_timings()), timings_before);
}

TEST(V4l2Inputs, AreChosenByNumberNameOrItsBeginning) {
  const auto all = must(open()->inputs());
  ASSERT_GT(all.size(), 1U);
  for (const v4l2::Port& port : all) {
    std::string in_capitals = port.name;
    for (char& letter : in_capitals) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
    for (const std::string& name : {std::to_string(port.index), port.name, in_capitals}) {
      const auto chosen = must(open({.input = name})->inputs());
      const auto now = std::ranges::find(chosen, true, &v4l2::Port::is_current);
      ASSERT_NE(now, chosen.end()) << name;
      EXPECT_EQ(now->index, port.index) << name;
    }
  }
  EXPECT_EQ(current_input(*open({.input = "hdmi"})), "HDMI");
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
  const auto hdmi = input(*camera, "HDMI");
  must(camera->set_control("DV Timings Signal Mode", "Current DV Timings"));
  EXPECT_TRUE(fails_with(timings, ENOLINK));
  ASSERT_TRUE(fails_with(offers, ENOLINK));
  EXPECT_NE(offers.error().detail().find("no signal"), std::string_view::npos) << offers.error().message();
  EXPECT_EQ(hdmi.problem, "no signal");
}

TEST(V4l2Timings, AreListedAndSet) {
  auto camera = open({.input = "HDMI"});
  const auto known = must(camera->known_timings());
  const Fd fd = raw(*camera);
  v4l2_enum_dv_timings entry{};
  while (::ioctl(fd.get(), VIDIOC_ENUM_DV_TIMINGS, &entry) == 0) {
    ASSERT_LT(entry.index, known.size());
    EXPECT_EQ(known[entry.index].size, (Size{entry.timings.bt.width, entry.timings.bt.height}));
    ++entry.index;
  }
  EXPECT_EQ(known.size(), entry.index);
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
  set_input(*camera, {1280, 720}, formats::xrgb8888);
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
    EXPECT_GT(all.size(), 1U);
    EXPECT_TRUE(must(camera->standard()).name.starts_with("NTSC")) << must(camera->standard()).name;
    EXPECT_EQ(must(camera->standard()).lines, 525U);
    EXPECT_NEAR(rate(must(camera->standard()).interval), 29.97, 0.01);
    set_input(*camera, {720, 480}, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)));
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
    EXPECT_TRUE(fails_with(camera->set_standard("PAL"), EBUSY));
    must(camera->stop());
    must(camera->set_standard("PAL"));
    EXPECT_EQ(must(camera->standard()).lines, 625U);
    set_input(*camera, {720, 576}, formats::xrgb8888);
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
  for (const auto& asked : {webcam->standard(), webcam->detected_standard()}) {
    ASSERT_FALSE(asked);
    EXPECT_TRUE(asked.error().code() == ENODATA || asked.error().code() == ENOTTY) << asked.error().message();
    EXPECT_NE(asked.error().detail().find("no TV standards"), std::string_view::npos) << asked.error().message();
  }
}

/// One of vivid's controls, by name.
v4l2::Control control(const Camera& camera, std::string_view name) {
  for (v4l2::Control& one : camera.controls()) {
    if (one.name == name) return std::move(one);
  }
  ADD_FAILURE() << "no control " << name;
  return {};
}

TEST(V4l2Controls, AreReadAndSetByNameInAnyCase) {
  auto camera = open();
  must(camera->set_control("brightness", 77));
  EXPECT_EQ(must(camera->control("BRIGHTNESS")), 77);
  must(camera->set_control("Brightness", 128));
  must(camera->set_control("horizontal_flip", "true"));
  EXPECT_EQ(must(camera->control("Horizontal Flip")), 1);
  must(camera->set_control("Horizontal Flip", std::int64_t{0}));
  const auto patterns = control(*camera, "Test Pattern").items;
  const auto full =
      std::ranges::find_if(patterns, [](const v4l2::Control::Item& item) { return item.name.starts_with("100% "); });
  ASSERT_NE(full, patterns.end());
  must(camera->set_control("Test Pattern", "100% colorbar"));
  EXPECT_EQ(must(camera->control("test_pattern")), full->index);
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
  const v4l2::Control brightness = control(*camera, "Brightness");
  const auto high = camera->set_control("Brightness", brightness.maximum + 1);
  ASSERT_TRUE(fails_with(high, ERANGE));
  const std::string range = std::to_string(brightness.minimum) + " to " + std::to_string(brightness.maximum);
  EXPECT_NE(detail(high).find(range), std::string::npos) << detail(high);
  const auto item = camera->set_control("OSD Text Mode", "Purple");
  ASSERT_TRUE(fails_with(item, EINVAL));
  EXPECT_NE(detail(item).find("Counters Only"), std::string::npos);
  EXPECT_TRUE(fails_with(camera->set_control("Read-Only Integer 32 Bits", 3), EACCES));
  EXPECT_TRUE(fails_with(camera->control("Button"), EACCES));
}

TEST(V4l2Controls, CompoundOnesAreLeftOut) {
  auto camera = open();
  const Fd fd = raw(*camera);
  std::size_t compound = 0;
  v4l2_query_ext_ctrl next{};
  next.id = V4L2_CTRL_FLAG_NEXT_CTRL | V4L2_CTRL_FLAG_NEXT_COMPOUND;
  while (::ioctl(fd.get(), VIDIOC_QUERY_EXT_CTRL, &next) == 0) {
    if (next.nr_of_dims > 0 || next.type >= V4L2_CTRL_COMPOUND_TYPES) ++compound;
    next.id |= V4L2_CTRL_FLAG_NEXT_CTRL | V4L2_CTRL_FLAG_NEXT_COMPOUND;
  }
  ASSERT_GT(compound, 0U) << "vivid has some";
  const auto all = camera->controls();
  EXPECT_FALSE(all.empty());
  for (const v4l2::Control& control : all) {
    v4l2_query_ext_ctrl query{};
    query.id = control.id;
    ASSERT_EQ(::ioctl(fd.get(), VIDIOC_QUERY_EXT_CTRL, &query), 0) << control.name;
    EXPECT_EQ(query.nr_of_dims, 0U) << control.name;
    EXPECT_LT(query.type, static_cast<std::uint32_t>(V4L2_CTRL_COMPOUND_TYPES)) << control.name;
  }
}

TEST(V4l2Controls, MenusHaveTheItemsThatTheDriverHas) {
  auto camera = open();
  const Fd fd = raw(*camera);
  std::size_t menus = 0;
  for (const v4l2::Control& control : camera->controls()) {
    const bool is_number = control.kind == v4l2::Control::Kind::integer_menu;
    if (!is_number && control.kind != v4l2::Control::Kind::menu) continue;
    std::vector<std::pair<std::int64_t, std::string>> items;
    for (std::int64_t index = control.minimum; index <= control.maximum; ++index) {
      v4l2_querymenu item{};
      item.id = control.id;
      item.index = static_cast<std::uint32_t>(index);
      if (::ioctl(fd.get(), VIDIOC_QUERYMENU, &item) == 0) {  // menus have holes
        items.emplace_back(index, is_number ? std::to_string(item.value) : reinterpret_cast<const char*>(item.name));
      }
    }
    ++menus;
    ASSERT_EQ(control.items.size(), items.size()) << control.name;
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(control.items[i].index, items[i].first) << control.name;
      EXPECT_EQ(control.items[i].name, items[i].second) << control.name;
    }
  }
  EXPECT_GT(menus, 0U) << "there was nothing to compare";
}

/// Records each S_SELECTION: what was asked for and what the driver set.
class SelectionWatch : public CountCalls {
 public:
  int before(const sys::Call& call) noexcept override {
    if (call.request != VIDIOC_S_SELECTION) return proceed;
    auto* selection = const_cast<v4l2_selection*>(static_cast<const v4l2_selection*>(call.argument));
    asked = rect(selection->r);
    if (::ioctl(call.fd, call.request, selection) < 0) return errno;
    made = rect(selection->r);
    return pretend;
  }
  Rect asked;
  Rect made;

 private:
  static Rect rect(const v4l2_rect& r) { return {.x = r.left, .y = r.top, .width = r.width, .height = r.height}; }
};

TEST(V4l2Selection, CropsAndComposes) {
  auto camera = open({.input = "HDMI"});
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  const Rect part{320, 180, 640, 360};
  SelectionWatch watch;
  const Rect cropped = must(camera->set_crop(part));
  EXPECT_EQ(watch.asked, part);
  EXPECT_EQ(cropped, watch.made);
  EXPECT_EQ(must(camera->crop()), cropped);
  const Rect composed = must(camera->set_compose(part));
  EXPECT_EQ(watch.asked, part);
  EXPECT_EQ(composed, watch.made);
  observe("vivid's HDMI input crops and composes as asked", cropped == part && composed == part);
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture_one(*camera).info().visible, composed) << "the rest of the buffer is no picture";
  must(camera->stop());
}

TEST(V4l2Color, IsTheDrivers) {
  auto camera = open({.input = "HDMI"});
  set_input(*camera, {1280, 720}, formats::nv12);
  // The meaning of the driver's answer according to videodev2.h.
  const v4l2_pix_format pix = raw_format(camera->info().path, false).fmt.pix;
  const auto encoding = pix.ycbcr_enc != V4L2_YCBCR_ENC_DEFAULT ? static_cast<v4l2_ycbcr_encoding>(pix.ycbcr_enc)
                                                                : V4L2_MAP_YCBCR_ENC_DEFAULT(pix.colorspace);
  const auto range = pix.quantization != V4L2_QUANTIZATION_DEFAULT
                         ? static_cast<v4l2_quantization>(pix.quantization)
                         : V4L2_MAP_QUANTIZATION_DEFAULT(false, pix.colorspace, encoding);
  if (pix.colorspace != V4L2_COLORSPACE_REC709 || encoding != V4L2_YCBCR_ENC_709) {
    GTEST_SKIP() << "vivid's HDMI input gives colorspace " << pix.colorspace << ", not BT.709";
  }
  EXPECT_EQ(camera->output().color.matrix, ColorInfo::Matrix::bt709);
  EXPECT_EQ(camera->output().color.primaries, ColorInfo::Primaries::bt709);
  EXPECT_EQ(camera->output().color.range,
            range == V4L2_QUANTIZATION_FULL_RANGE ? ColorInfo::Range::full : ColorInfo::Range::limited);
}

}  // namespace
}  // namespace dmaflow::test
