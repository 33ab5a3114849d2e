/*
 * Runs a program in a console of its own that nobody sees, with the standard output and error that this one has.
 *
 * Usage: console PROGRAM ARGUMENT...
 *
 * Each character on standard input is a Ctrl-C in that console. The exit code is the program's.
 */
#include <stdio.h>
#include <windows.h>

#include "words.h"

static BOOL WINAPI go_on(DWORD event)
{
    (void)event;
    return TRUE;
}

static int failed(const char *what)
{
    fprintf(stderr, "console: %s: error %lu\n", what, GetLastError());
    return 255;
}

static DWORD WINAPI press(LPVOID input)
{
    char key;
    DWORD read;
    while (ReadFile((HANDLE)input, &key, 1, &read, NULL) && read == 1)
        if (!GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0))
            failed("GenerateConsoleCtrlEvent");
    return 0;
}

int main(void)
{
    STARTUPINFOA start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION process;
    HANDLE input = GetStdHandle(STD_INPUT_HANDLE);
    DWORD code = 255;

    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    start.hStdInput = CreateFileA("NUL", GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                  &(SECURITY_ATTRIBUTES){sizeof(SECURITY_ATTRIBUTES), NULL, TRUE}, OPEN_EXISTING, 0, NULL);
    FreeConsole();
    if (!AllocConsole())
        return failed("AllocConsole");
    if (!SetConsoleCtrlHandler(go_on, TRUE))
        return failed("SetConsoleCtrlHandler");
    if (!CreateProcessA(NULL, rest(GetCommandLineA()), NULL, NULL, TRUE, 0, NULL, NULL, &start, &process))
        return failed("CreateProcess");
    if (!CreateThread(NULL, 0, press, input, 0, NULL))
        return failed("CreateThread");
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return (int)code;
}
