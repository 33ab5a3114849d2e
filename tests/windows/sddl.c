/*
 * Prints who owns a file and who may use it, in Microsoft's security descriptor language.
 *
 * Usage: sddl FILE
 */
#include <aclapi.h>
#include <sddl.h>
#include <stdio.h>
#include <windows.h>

int main(int count, char **words)
{
    SECURITY_INFORMATION wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    PSECURITY_DESCRIPTOR descriptor;
    DWORD error;
    char *text;

    if (count != 2)
        return 255;
    error = GetNamedSecurityInfoA(words[1], SE_FILE_OBJECT, wanted, NULL, NULL, NULL, NULL, &descriptor);
    if (error) {
        fprintf(stderr, "sddl: GetNamedSecurityInfo: error %lu\n", error);
        return 1;
    }
    if (!ConvertSecurityDescriptorToStringSecurityDescriptorA(descriptor, SDDL_REVISION_1, wanted, &text, NULL)) {
        fprintf(stderr, "sddl: no text: error %lu\n", GetLastError());
        return 1;
    }
    puts(text);
    return 0;
}
