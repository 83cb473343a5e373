// one_fails: one of two users of a camera fails after 10 frames; it is reported, and the other gets its 30 frames.
#include <dmaflow/dmaflow.hpp>

#include <cerrno>
#include <iostream>

int main() try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  int good = 0;
  int bad = 0;
  const auto works = dmaflow::FunctionSink::create([&](const dmaflow::Frame&) -> dmaflow::Result<void> {
                       ++good;
                       return {};
                     }).value();
  const auto fails = dmaflow::FunctionSink::create([&](const dmaflow::Frame&) -> dmaflow::Result<void> {
                       if (++bad <= 10) return {};
                       return std::unexpected(dmaflow::Error::os(EIO, "upload", "server"));
                     }).value();
  const auto memory = dmaflow::open_system_memory().value();
  dmaflow::Pipeline pipeline;
  pipeline.offer(*memory);
  pipeline.connect(*camera, *works, "works").value();
  pipeline.connect(*camera, *fails, "fails").value();
  pipeline.on_failure([](const dmaflow::Failure& failure) {
    std::cout << failure.name << ": " << failure.error.message() << '\n';
    return true;  // the others go on
  });
  pipeline.run({.frames = 30}).value();
  std::cout << good << " frames for the other\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
